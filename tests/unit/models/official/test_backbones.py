"""Published self-supervised weights give the tokens of the network that they are of.

The checkpoints are made of random networks of timm, their tensors named as the releases name them.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.integration.commands import here
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.presets import licence_of, read_backbone
from usseg_ray.models.official.backbones import FILE, convert_backbone, holds_backbone

State = dict[str, Tensor]
SMALL_16 = "vit_small_patch16_224.dino"
SMALL_14 = "vit_small_patch14_dinov2.lvd142m"
BASE_14_REG = "vit_base_patch14_reg4_dinov2.lvd142m"


def drawn(name: str, seed: int = 0) -> Any:
    """A network of one block of random weights."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, depth=1, dynamic_img_size=True).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return model


def as_dinov2(model: Any) -> State:
    """Names tensors as DINOv2's own code does, whose positions count the CLS token."""
    state = dict(model.state_dict()) | {"mask_token": torch.zeros(1, model.embed_dim)}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        own = torch.randn(1, 1, model.embed_dim)
        state["pos_embed"] = torch.cat([own, state["pos_embed"]], 1)
        halved = state["cls_token"] / 2
        model.cls_token.data = halved + own[:, 0]
        state["cls_token"] = halved
    return state


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def leopart(model: Any) -> object:
    return below("model.", model.state_dict()) | {"model.mlp_head.0.weight": torch.zeros(2, 2)}


def cribo(model: Any) -> object:
    student = below("module.backbone.", drawn(SMALL_16, 1).state_dict())
    teacher = below("backbone.", model.state_dict()) | {"head.mlp.0.weight": torch.zeros(2, 2)}
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "args": Namespace(arch="vit_small"),
        "epoch": 3,
    }


def dip(model: Any) -> object:
    network = below("module.feats_extractor.encoder.", as_dinov2(model))
    return {"model": network | {"module.projector.fc1.weight": torch.zeros(2, 2)}, "epoch": 4}


@torch.no_grad()
@pytest.mark.parametrize(
    ("release", "name"),
    [(leopart, SMALL_16), (cribo, SMALL_16), (as_dinov2, SMALL_14), (dip, BASE_14_REG)],
    ids=["leopart", "cribo", "neco", "dip"],
)
def test_a_release_gives_the_tokens_of_its_network(
    tmp_path: Path, release: Callable[[Any], object], name: str
) -> None:
    model = drawn(name)
    torch.save(release(model), tmp_path / "there.pth")
    done = here("import_checkpoint", tmp_path / "there.pth", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"{name}; take it by --backbone {tmp_path / 'out' / FILE}" in done.stdout
    config = read_backbone(tmp_path / "out" / FILE)
    assert (config.name, config.note) == (name, "weights of there.pth")
    assert licence_of(config).name == "unknown"
    backbone = build_backbone(config)
    images = backbone.normalise(torch.rand(2, 3, 112, 112))
    side = 112 // backbone.spec.patch_size
    expected = model.forward_features(images)[:, model.num_prefix_tokens :]
    found = backbone(images, Needs()).tokens
    assert torch.equal(found, expected.mT.unflatten(2, (side, side)))


def test_positions_of_other_sizes_are_resized(tmp_path: Path) -> None:
    model = timm.create_model(SMALL_16, pretrained=False, depth=1, img_size=64)
    convert_backbone(model.state_dict(), tmp_path, "smaller")
    found: Any = build_backbone(read_backbone(tmp_path / FILE))
    assert found.model.pos_embed.shape == (1, 1 + 14**2, 384)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.mlp.fc1.weight": torch.zeros(3, 3)}, r"not quite vit_small.*blocks\.0\.mlp"),
        ({"blocks.0.mlp.w4.weight": torch.zeros(3)}, r"not quite vit_small.*blocks\.0\.mlp\.w4"),
        ({"patch_embed.proj.weight": torch.zeros(384, 3, 32, 32)}, "patches of 32 pixels: no ViT"),
        ({"a.patch_embed.proj.weight": torch.zeros(1)}, "several networks and not one teacher"),
    ],
)
def test_what_is_of_another_form_is_refused(tmp_path: Path, change: State, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert_backbone(drawn(SMALL_16).state_dict() | change, tmp_path, "other")
    assert not list(tmp_path.iterdir())


def test_settings_of_a_method_are_for_none(tmp_path: Path) -> None:
    torch.save(drawn(SMALL_16).state_dict(), tmp_path / "there.pth")
    place = (tmp_path / "there.pth", "--out", tmp_path / "out")
    done = here("import_checkpoint", *place, "--backbone", "dino_s8")
    assert done.returncode == 2
    assert "leave out --backbone and --set" in done.stderr
    assert not holds_backbone({"net.cluster1.0.weight": torch.zeros(1)})
