"""The filter bank: what its channels mean, and what they do not depend on."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.data.synthetic import SIZE, scene
from usseg_ray.features.textons import Textons

SCALES = 3
SECOND, FOURTH = 3, 4
"""Channels of the finest scale's anisotropy: after the mean contrast and two slopes."""


def _scenes(count: int) -> tuple[Float[Tensor, "B 3 H W"], Tensor]:
    images, labels = zip(*(scene(0, "train", index) for index in range(count)), strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return pixels, torch.from_numpy(np.stack(labels)).long()


def _grating(degrees: float, period: float = 4.0) -> Float[Tensor, "1 1 H W"]:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    angle = math.radians(degrees)
    return (2 * math.pi / period * (x * math.cos(angle) + y * math.sin(angle))).sin()[None, None]


def _grey(pattern: Tensor, contrast: float = 0.1) -> Float[Tensor, "1 3 H W"]:
    return (0.5 + contrast * pattern).expand(-1, 3, -1, -1)


def _centre(tokens: Tensor) -> Tensor:
    return tokens[0, :, 4:-4, 4:-4].mean((1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_scales": 1},
        {"num_scales": 4, "num_orientations": 8},
        {"patch_size": 16, "position_weight": 0.5},
        {"patch_size": 4, "colour_weight": 0.0},
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (144, 144), (96, 160)])
def test_any_multiple_of_the_patch_gives_one_token_a_patch(
    options: dict[str, Any], size: tuple[int, int]
) -> None:
    bank = Textons(**options)
    tokens = bank(torch.rand(2, 3, *size))
    assert tokens.shape == (2, bank.dim, size[0] // bank.patch_size, size[1] // bank.patch_size)
    assert tokens.dtype == torch.float32
    assert tokens.isfinite().all()


def test_nothing_is_learnt_saved_or_drawn() -> None:
    images, _ = _scenes(2)
    bank = Textons()
    assert not list(bank.parameters())
    assert not bank.state_dict()
    assert torch.equal(bank(images), Textons()(images))


def test_a_token_does_not_depend_on_the_rest_of_the_batch() -> None:
    images, _ = _scenes(3)
    bank = Textons()
    torch.testing.assert_close(bank(images)[1:2], bank(images[1:2]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_constant_image_is_flat_everywhere(level: float) -> None:
    tokens = Textons(colour_weight=0.0)(torch.full((1, 3, 64, 64), level))
    torch.testing.assert_close(tokens, tokens[:, :, :1, :1].expand_as(tokens), atol=1e-4, rtol=0)
    flat = tokens[0, :, 0, 0]
    assert flat[0] == pytest.approx(-1, abs=1e-3)
    torch.testing.assert_close(flat[1:3], torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        flat[3:9], torch.full((6,), -1 / math.sqrt(SCALES)), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("gain", [0.5, 0.8])
def test_texture_channels_ignore_how_bright_the_light_is(gain: float) -> None:
    images, _ = _scenes(8)
    bank = Textons(colour_weight=0.0)
    cosine = torch.cosine_similarity(bank(images), bank(gain * images), dim=1)
    assert cosine.mean() > 0.98
    assert (cosine > 0.95).float().mean() > 0.95


def test_a_quarter_turn_of_the_image_turns_the_map_and_nothing_else() -> None:
    images, _ = _scenes(2)
    bank = Textons()
    turned = bank(images.rot90(1, (2, 3)))
    torch.testing.assert_close(turned, bank(images).rot90(1, (2, 3)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("degrees", [10, 15, 30, 45, 70])
def test_a_texture_keeps_its_token_when_turned_by_any_angle(degrees: float) -> None:
    bank = Textons(colour_weight=0.0)
    tokens = torch.stack([_centre(bank(_grey(_grating(angle)))) for angle in (0.0, degrees)])
    assert torch.cosine_similarity(tokens[0], tokens[1], dim=0) > 0.98


def test_anisotropy_tells_a_grating_from_a_weave_from_noise() -> None:
    bank = Textons()
    noise = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0)) - 0.5
    grating, weave, blank = (
        math.sqrt(SCALES) * _centre(bank(_grey(pattern)))
        for pattern in (_grating(0), _grating(0) + _grating(90), 2 * noise)
    )
    assert grating[SECOND] > 0.9
    assert grating[FOURTH] > 0.9
    assert weave[SECOND] < -0.4
    assert weave[FOURTH] > 0.8
    assert blank[SECOND] < -0.2
    assert blank[FOURTH] < -0.2


def test_contrast_is_a_straight_line_between_noise_and_a_bold_pattern() -> None:
    bank = Textons(num_scales=1)
    # The energy of a grating, mean over directions, is the same fraction of its square amplitude.
    low, high = (_centre(bank(_grey(_grating(0), contrast)))[0] for contrast in (0.05, 0.1))
    assert high - low == pytest.approx(2 * math.log(2) / math.log(0.3 / 0.01), rel=0.05)


def test_moving_the_image_by_a_patch_moves_the_tokens_by_one() -> None:
    images, _ = _scenes(2)
    bank = Textons()
    moved = bank(images.roll((8, -8), (2, 3)))
    inner = slice(6, -6)
    expected = bank(images).roll((1, -1), (2, 3))
    torch.testing.assert_close(
        moved[..., inner, inner], expected[..., inner, inner], atol=1e-3, rtol=0
    )


def test_cosines_separate_classes() -> None:
    images, labels = _scenes(24)
    bank = Textons()
    tokens = torch.nn.functional.normalize(bank(images), dim=1).flatten(2)
    centres = labels[:, 4::8, 4::8].flatten(1)
    cosines = torch.einsum("bdi,bdj->bij", tokens, tokens)
    same = centres[:, :, None] == centres[:, None]
    assert centres.shape[1] == (SIZE // 8) ** 2
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    assert cosines[~same].mean() < 0.5


def test_weights_scale_colour_and_position_only() -> None:
    images, _ = _scenes(1)
    plain, weighted = Textons()(images), Textons(colour_weight=0.5, position_weight=2.0)(images)
    texture = 4 * SCALES
    torch.testing.assert_close(weighted[:, :texture], plain[:, :texture])
    torch.testing.assert_close(weighted[:, texture:-2], 0.5 * plain[:, texture:])
    edge = 2 * (1 - 8 / SIZE)
    torch.testing.assert_close(weighted[0, -2:, 0, -1], torch.tensor([edge, -edge]))
    torch.testing.assert_close(weighted[0, -2:, -1, 0], torch.tensor([-edge, edge]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 6}, r"patch_size = 6 must be a multiple of 2\*\*\(num_scales - 1\)"),
        ({"num_scales": 0}, "num_scales = 0"),
        ({"num_orientations": 4}, "num_orientations = 4 must be at least 5"),
        ({"colour_weight": -1.0}, r"colour_weight = -1\.0"),
        ({"position_weight": -1.0}, r"position_weight = -1\.0"),
    ],
)
def test_a_value_out_of_bounds_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Textons(**options)
