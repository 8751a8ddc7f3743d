"""What is read inside attention is what timm computes there, plain and rotary."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from tests.unit.features.test_backbones import (
    REGISTERS,
    TINY_VIT,
    VIT,
    attention_by_hand,
    normalised,
    random_model,
    saved,
    seen,
)
from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.features.backbones import TimmFeatures, build_backbone
from usseg_ray.ops.attention import cls_score, local_weights

ROTARY = ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb", "eva02_tiny_patch14_224")
ALL = (VIT, REGISTERS, *ROTARY)


def side(name: str) -> int:
    return 56 if "patch14" in name else 64


def images(name: str) -> Tensor:
    shape = (2, 3, side(name), side(name) * 3 // 2)
    return torch.rand(shape, generator=shared_generator("projections", name))


def opened(name: str, folder: Path, **config: Any) -> tuple[Any, TimmFeatures]:
    args = TINY_VIT | ({"img_size": side(name)} if "patch14" in name else {})
    path = saved(random_model(name, dynamic_img_size=True, **args), folder / "model.safetensors")
    # Its own rotation, which no file holds.
    model = timm.create_model(name, pretrained=False, dynamic_img_size=True, **args).eval()
    model.load_state_dict(load_file(path))
    built = build_backbone(BackboneConfig(name=name, weights=path, timm_args=args, **config))
    assert isinstance(built, TimmFeatures)
    return model, built


@pytest.mark.parametrize("name", ROTARY)
@torch.no_grad()
def test_rotary_attention_is_timms_unfused_one(name: str, tmp_path: Path) -> None:
    model, backbone = opened(name, tmp_path)
    pixels = images(name)
    weights, prefix = attention_by_hand(model, pixels), model.num_prefix_tokens
    kept = [0, *range(prefix, weights.shape[-1])]
    found = seen(backbone, pixels, Needs(attention="cls", local_attention=True))
    height, width = found.tokens.shape[-2:]
    assert found.saliency is not None
    expected = cls_score(weights[:, :, kept][:, :, :, kept]).view(-1, height, width)
    torch.testing.assert_close(found.saliency, expected, rtol=1e-4, atol=1e-6)
    logits = weights[:, :, prefix:, prefix:].log()
    logits = logits - logits.mean(-1, keepdim=True)
    assert found.local is not None
    torch.testing.assert_close(
        found.local, local_weights(logits.mean(1), height, width), rtol=1e-3, atol=1e-4
    )


def caught(module: nn.Module, run: Any) -> Tensor:
    """The input of a module in one run."""
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _m, given: inputs.append(given[0]))
    run()
    handle.remove()
    return inputs[0]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("facet", "norm"), [("query", "q_norm"), ("key", "k_norm")])
@torch.no_grad()
def test_queries_and_keys_are_those_before_the_norm(
    name: str, facet: str, norm: str, tmp_path: Path
) -> None:
    model, backbone = opened(name, tmp_path, facet=facet, layer=1)
    pixels, attention = images(name), model.blocks[1].attn
    heads = caught(
        getattr(attention, norm), lambda: model.forward_features(normalised(model, pixels))
    )
    expected = heads[:, :, model.num_prefix_tokens :].transpose(2, 3).flatten(1, 2)
    found = seen(backbone, pixels).tokens
    assert found.shape[1] == backbone.spec.dim == attention.num_heads * attention.head_dim
    torch.testing.assert_close(found.flatten(2), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_values_are_what_attention_mixes(name: str, tmp_path: Path) -> None:
    model, backbone = opened(name, tmp_path, facet="value")
    pixels, attention = images(name), model.blocks[-1].attn
    weights, prefix = attention_by_hand(model, pixels), model.num_prefix_tokens
    mixed = caught(attention.norm, lambda: model.forward_features(normalised(model, pixels)))
    # Of the patches' values alone: what prefix tokens add is left out on both sides.
    found = seen(backbone, pixels).tokens.flatten(2)
    values = found.unflatten(1, (attention.num_heads, -1)).transpose(2, 3)
    from_patches = weights[:, :, :, prefix:] @ values
    rest = mixed - from_patches.transpose(1, 2).flatten(2)
    # The prefix tokens' share has at most as many directions a head as there are prefix tokens.
    heads = rest.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    share = weights[:, :, :, :prefix]
    solved = torch.linalg.lstsq(share, heads).solution
    torch.testing.assert_close(share @ solved, heads, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_several_layers_lie_side_by_side_as_unit_tokens(tmp_path: Path) -> None:
    name = ROTARY[0]
    _, both = opened(name, tmp_path, layer=(0, 2))
    _, first = opened(name, tmp_path, layer=0)
    _, last = opened(name, tmp_path, layer=2)
    pixels = images(name)
    expected = torch.cat([normalize(seen(one, pixels).tokens) for one in (first, last)], 1)
    assert torch.equal(seen(both, pixels).tokens, expected)
    assert both.spec.dim == expected.shape[1]


@pytest.mark.parametrize("layer", [(), (1, 0), (1, 1), (0, 3)])
def test_layers_that_cannot_be_meant(layer: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone\.layer = "):
        opened(VIT, tmp_path, layer=layer)


def test_a_network_without_attention_has_tokens_alone() -> None:
    with pytest.raises(UserError, match="no attention that can be read"):
        TimmFeatures(BackboneConfig(name="resnet18", facet="key"), pretrained=False)


@torch.no_grad()
def test_position_is_taken_out_of_tokens(tmp_path: Path) -> None:
    name = ROTARY[0]
    _, plain = opened(name, tmp_path)
    _, debiased = opened(name, tmp_path, debias=4)
    black = torch.zeros(1, 3, 64, 96)
    unit = normalize(seen(plain, black).tokens)[0].flatten(1).T.double()
    left, _, _ = torch.linalg.svd((unit - unit.mean(0)).T, full_matrices=False)
    basis = left[:, :4]
    pixels = images(name)
    tokens = normalize(seen(plain, pixels).tokens).flatten(2).double()
    expected = normalize(tokens - basis @ (basis.T @ tokens)).float()
    found = seen(debiased, pixels).tokens
    torch.testing.assert_close(found.flatten(2), expected, rtol=1e-4, atol=1e-5)
    # Nothing is left along them, and another size has directions of its own.
    assert (basis.T.float() @ found.flatten(2)).abs().max() < 1e-4
    assert seen(debiased, pixels[..., :64]).tokens.shape[-2:] == (4, 4)


def test_more_directions_than_channels_are_refused() -> None:
    config = BackboneConfig(name=VIT, timm_args=TINY_VIT, debias=24)
    with pytest.raises(UserError, match=r"backbone\.debias = 24: 0 to 23 fit"):
        TimmFeatures(config, pretrained=False)
