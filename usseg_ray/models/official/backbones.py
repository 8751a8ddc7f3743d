"""Self-supervised weights as their authors publish them, made a backbone by timm's names.

The names are facts of the releases: Leopart's file has a word before every name, CrIBo's (as DINO's
own) a student and a teacher with `backbone.`, DIP's a model with `feats_extractor.encoder.`, NeCo's
nothing; each may have `module.`, and the heads of its loss, which are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole
from usseg_ray.features.zoo import timm

FILE, WEIGHTS = "backbone.yaml", "backbone.safetensors"

_PATCHES = "patch_embed.proj.weight"

_REGISTERS = "register_tokens"

_NETWORKS = {
    (384, 8): "vit_small_patch8_224.dino",
    (384, 16): "vit_small_patch16_224.dino",
    (768, 8): "vit_base_patch8_224.dino",
    (768, 16): "vit_base_patch16_224.dino",
    (384, 14): "vit_small_patch14_dinov2.lvd142m",
    (768, 14): "vit_base_patch14_dinov2.lvd142m",
    (1024, 14): "vit_large_patch14_dinov2.lvd142m",
}
"""Channels and side of a patch -> timm's name; DINOv2's are others with registers."""


def holds_backbone(tensors: Mapping[str, Tensor]) -> bool:
    """Tells whether some tensors of a checkpoint are a ViT's."""
    return any(name.endswith(_PATCHES) for name in tensors)


def convert_backbone(tensors: Mapping[str, Tensor], folder: Path, about: str) -> str:
    """Writes the ViT of a checkpoint as weights for `--backbone`.

    Args:
        tensors: As `tensors.read_tensors` names them.
        folder: Gets `backbone.safetensors` and `backbone.yaml`, which names them.
        about: Says beside every score whose weights they are.

    Returns:
        timm's name of the network.

    Raises:
        UserError: The tensors are of no ViT of DINO's, DINOv2's or a like form.
    """
    prefix = _prefix(tensors)
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    name, args = _network(own)
    model = timm.create_model(name, pretrained=False, **args)
    if _REGISTERS in own:
        # By this timm knows DINOv2's names; nothing reads it.
        own.setdefault("mask_token", torch.zeros(1))
    named = timm.models.vision_transformer.checkpoint_filter_fn(own, model)
    wanted = model.state_dict()
    wrong = [k for k, v in wanted.items() if k not in named or named[k].shape != v.shape]
    wrong += [k for k in named if k.startswith("blocks.") and k not in wanted]
    if wrong:
        raise UserError(
            f"The checkpoint is not quite {name}'s: {len(wrong)} tensors do not fit or are "
            f"missing, such as {wrong[:3]}."
        )
    state = {k: named[k].float().contiguous() for k in wanted}
    write_whole(folder / WEIGHTS, safetensors.torch.save(state))
    said: dict[str, Any] = {"name": name, "weights": WEIGHTS, "note": about}
    write_whole(folder / FILE, yaml.safe_dump(said | ({"timm_args": args} if args else {})))
    return name


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    """Finds what stands before the names of a ViT: the teacher's, where there are several.

    Raises:
        UserError: There are several, and none or not one is a teacher's.
    """
    found = [name.removesuffix(_PATCHES) for name in tensors if name.endswith(_PATCHES)]
    chosen = found if len(found) == 1 else [one for one in found if "teacher" in one]
    if len(chosen) != 1:
        raise UserError(f"The checkpoint has several networks and not one teacher: {found[:4]}.")
    return chosen[0]


def _network(own: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Names a ViT by the shapes of its tensors.

    Returns:
        timm's name, and the arguments in which it differs from that.
    """
    width, _, patch, _ = own[_PATCHES].shape
    blocks = {int(k.split(".")[1]) for k in own if k.startswith("blocks.")}
    if (width, patch) not in _NETWORKS or not blocks:
        raise UserError(
            f"The checkpoint's network has {width} channels and patches of {patch} pixels: no ViT "
            "of DINO or DINOv2 has these."
        )
    name = _NETWORKS[width, patch]
    if _REGISTERS in own:
        name = name.replace("_dinov2", "_reg4_dinov2")
    depth = 24 if width == 1024 else 12
    return name, {} if len(blocks) == depth else {"depth": len(blocks)}
