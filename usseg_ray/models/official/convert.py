"""From an official checkpoint to a model's folder, which then is like any other."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from usseg_ray import methods
from usseg_ray.core.config import build_config
from usseg_ray.core.errors import UserError
from usseg_ray.engine.model import build_model
from usseg_ray.models.description import Description
from usseg_ray.models.folder import BACKBONE_WEIGHTS, describe, save_model
from usseg_ray.models.official.layouts import OfficialModel, recognise
from usseg_ray.models.official.tensors import read_tensors

_WIDTHS = {384: "small", 768: "base"}

_PATCHES = (8, 16)

_OFFICIAL_PATCH = 8

_EMBEDDING = "patch_embed.proj.weight"


def read_checkpoint(files: Sequence[Path]) -> dict[str, Tensor]:
    """Reads the tensors of all files of a checkpoint; see `tensors.read_tensors`."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    return tensors


def convert(
    tensors: Mapping[str, Tensor], folder: Path, assigned: Mapping[str, Any] | None = None
) -> Description:
    """Makes a model of an official checkpoint.

    Args:
        tensors: Of the checkpoint, as `read_checkpoint` reads them.
        folder: Where the model goes.
        assigned: Settings in place of the official ones, such as another backbone's.

    Returns:
        What the model is.

    Raises:
        UserError: It is of no known method, or does not fit.
    """
    found = recognise(tensors)
    with tempfile.TemporaryDirectory(prefix="usseg-") as place:
        weights = None
        if found.backbone:
            weights = Path(place) / "backbone.safetensors"
            safetensors.torch.save_file(found.backbone, weights)
        settings = _settings(found, weights) | dict(assigned or {})
        return _built(found, settings, folder)


def _settings(found: OfficialModel, weights: Path | None) -> dict[str, Any]:
    if not found.width:
        # No frozen network: the cheapest stands for it, and is never asked.
        return found.settings | {"backbone.name": "textons"}
    embedding = found.backbone.get(_EMBEDDING)
    patch = _OFFICIAL_PATCH if embedding is None else embedding.shape[-1]
    if found.width not in _WIDTHS or patch not in _PATCHES:
        raise UserError(
            f"The checkpoint reads tokens of {found.width} channels and patches of {patch} pixels: "
            "no DINO ViT has these. Name its backbone: --backbone NAME or FILE.yaml"
        )
    name = f"vit_{_WIDTHS[found.width]}_patch{patch}_224.dino"
    return found.settings | {
        "backbone.name": name,
        BACKBONE_WEIGHTS: str(weights) if weights else None,
    }


def _built(found: OfficialModel, settings: Mapping[str, Any], folder: Path) -> Description:
    """Puts the tensors into the method, as it is built here, and keeps both."""
    method_class = methods.get(found.method)
    config = build_config(method_class.Config, [settings, method_class.defaults.trained])
    model = build_model(config, method_class, torch.device("cpu"))
    state = model.method.state_dict()
    wrong = [
        name
        for name, tensor in found.state.items()
        if name not in state or state[name].shape != tensor.shape
    ]
    missing = [name for name in _learnt(model.method) if name not in found.state]
    if wrong or missing:
        raise UserError(
            f"The checkpoint is not quite {found.method}'s: {len(wrong) + len(missing)} tensors "
            f"do not fit or are missing, such as {[*wrong, *missing][:3]}. Settings that differ "
            "from the official ones go to --set."
        )
    state |= {name: tensor.to(state[name].dtype) for name, tensor in found.state.items()}
    about = describe(found.method, config, model.featurise.backbone)
    weights = config.backbone.weights
    save_model(folder, about, state, Path(weights) if weights else None)
    return about


def _learnt(method: torch.nn.Module) -> list[str]:
    """Lists what a prediction hangs on; what only training needs begins anew."""
    aside = ("projection.", "agnostic_pool.", "specific_pool.", "bank.")
    return [name for name, _ in method.named_parameters() if not name.startswith(aside)]
