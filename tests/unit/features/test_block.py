"""A block that is copied gives the backbone's tokens, and learns, plain and rotary."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.features.test_backbones import CNN, TINY_VIT, seen
from tests.unit.features.test_projections import ALL, images, opened
from usseg_ray.core.config import BackboneConfig, DataConfig
from usseg_ray.core.types import Needs
from usseg_ray.features.backbones import TimmFeatures, feature_spec
from usseg_ray.features.block import ReadBlock

WANTED = Needs(block_input=True)


def copied(backbone: TimmFeatures) -> ReadBlock:
    assert backbone.spec.block is not None
    block = backbone.spec.block()
    assert isinstance(block, ReadBlock)
    return block


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("name", ALL)
def test_untrained_it_gives_the_tokens_that_are_read(
    name: str, layer: int | None, tmp_path: Path
) -> None:
    model, backbone = opened(name, tmp_path, layer=layer)
    entered = []
    chosen = model.blocks[-1 if layer is None else layer]
    chosen.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        features = seen(backbone, images(name), WANTED)
        model.forward_features(backbone.normalise(images(name)))
    assert features.block_input is not None
    torch.testing.assert_close(features.block_input.tokens, entered[0])
    codes = copied(backbone)(features.block_input, *features.tokens.shape[2:])
    torch.testing.assert_close(codes, features.tokens)
    assert seen(backbone, images(name)).block_input is None


@pytest.mark.parametrize("name", ALL)
def test_the_block_learns_and_the_norm_does_not(name: str, tmp_path: Path) -> None:
    _, backbone = opened(name, tmp_path)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    block = copied(backbone)
    features = seen(backbone, images(name), WANTED)
    assert features.block_input is not None
    block(features.block_input, *features.tokens.shape[2:]).square().sum().backward()
    assert all(p.grad is not None for p in block.block.parameters())
    assert all(p.grad is None for p in block.norm.parameters())
    assert not any(p.requires_grad for p in backbone.parameters())
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "textons"},
        {"name": CNN},
        {"name": ALL[0], "timm_args": TINY_VIT, "facet": "key"},
        {"name": ALL[0], "timm_args": TINY_VIT, "layer": [1, 2]},
        {"name": ALL[0], "timm_args": TINY_VIT, "debias": 2},
        {"name": ALL[0], "timm_args": TINY_VIT, "context": 0.75},
        {"name": ALL[0], "timm_args": TINY_VIT, "normalise": "centred"},
    ],
)
def test_there_is_none_where_tokens_are_anything_else(settings: dict[str, Any]) -> None:
    data = DataConfig(train_size=64, eval_size=64)
    assert feature_spec(BackboneConfig.model_validate(settings), data).block is None
    plain = BackboneConfig(name=ALL[0], timm_args=TINY_VIT)
    assert feature_spec(plain, data).block is not None
