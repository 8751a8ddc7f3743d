"""Photometric views against torchvision, one image at a time, and their draws."""

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.functional as reference  # type: ignore[import-untyped]
from torch import Tensor

from usseg_ray.core.config import JitterConfig
from usseg_ray.ops.photometric import (
    PhotometricDraws,
    apply_photometric,
    draw_photometric,
    photometric_views,
)

CHANGES = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)
NAMES = [f"image-{number}" for number in range(24)]


def images(count: int = len(NAMES), scale: float = 1.2) -> Tensor:
    """Images with values on both sides of [0, 1], as after normalisation."""
    return scale * torch.randn(count, 3, 12, 10, generator=torch.Generator().manual_seed(0))


def by_torchvision(image: Tensor, draws: PhotometricDraws, index: int) -> Tensor:
    """Makes one image's view by the official code's library."""
    for change in draws.order[index].tolist():
        if draws.applied[index, change]:
            image = CHANGES[change](image, float(draws.strength[index, change]))
    if draws.grey[index]:
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    sigma = float(draws.sigma[index])
    return reference.gaussian_blur(image, [5, 5], [sigma, sigma]) if sigma else image


@pytest.mark.parametrize("scale", [1.2, 0.1])
@pytest.mark.parametrize(
    "jitter",
    [
        JitterConfig(),
        JitterConfig(probability=0.5, hue=0.5, grey=0.5, blur=0),
        JitterConfig(brightness=1, contrast=1, saturation=1, grey=0, blur=1),
    ],
    ids=["official", "some", "strong"],
)
def test_views_are_those_of_torchvision(jitter: JitterConfig, scale: float) -> None:
    batch = images(scale=scale)
    draws = draw_photometric(NAMES, jitter, 7, "views")
    views = apply_photometric(batch, draws)
    expected = torch.stack([by_torchvision(x, draws, i) for i, x in enumerate(batch)])
    torch.testing.assert_close(views, expected, rtol=1e-4, atol=2e-5)
    assert len({tuple(order) for order in draws.order.tolist()}) > 5


@pytest.mark.parametrize("change", range(4))
@pytest.mark.parametrize(
    "colour", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.2), (1.0, 0.0, 0.0)]
)
def test_flat_colours(change: int, colour: tuple[float, float, float]) -> None:
    flat = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 6, 6).contiguous()
    draws = replace(
        draw_photometric(["a"], JitterConfig(grey=0, blur=0)),
        applied=torch.arange(4)[None] == change,
    )
    view = apply_photometric(flat, draws)
    expected = CHANGES[change](flat[0], float(draws.strength[0, change]))
    torch.testing.assert_close(view[0], expected, rtol=0, atol=1e-6)


def test_nothing_applied_changes_nothing() -> None:
    batch = images()
    off = JitterConfig(probability=0, grey=0, blur=0)
    assert torch.equal(photometric_views(batch, NAMES, off, 0), batch)


def test_input_is_left_alone() -> None:
    batch = images()
    before = batch.clone()
    views = photometric_views(batch, NAMES, JitterConfig(), 0)
    assert torch.equal(batch, before)
    assert not torch.equal(views, before)


def test_a_view_depends_on_key_and_image_alone() -> None:
    batch = images()
    whole = photometric_views(batch, NAMES, JitterConfig(), 3, "step")
    chosen = [5, 2, 17]
    some = photometric_views(batch[chosen], [NAMES[i] for i in chosen], JitterConfig(), 3, "step")
    torch.testing.assert_close(some, whole[chosen], rtol=0, atol=1e-6)
    other = photometric_views(batch, NAMES, JitterConfig(), 4, "step")
    assert not any(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_draws_have_the_stated_ranges() -> None:
    names = [str(number) for number in range(2000)]
    draws = draw_photometric(names, JitterConfig(probability=0.7), 0)
    spans = draws.strength.amin(0), draws.strength.amax(0)
    torch.testing.assert_close(spans[0], torch.tensor([0.7, 0.7, 0.7, -0.1]), rtol=0, atol=1e-2)
    torch.testing.assert_close(spans[1], torch.tensor([1.3, 1.3, 1.3, 0.1]), rtol=0, atol=1e-2)
    shares = {
        0.7: draws.applied.float().mean(),
        0.2: draws.grey.float().mean(),
        0.5: (draws.sigma > 0).float().mean(),
    }
    for expected, share in shares.items():
        assert float(share) == pytest.approx(expected, abs=0.04)
    blurred = draws.sigma[draws.sigma > 0]
    assert 0.1 <= blurred.min() < 0.12
    assert 1.98 < blurred.max() <= 2
    assert torch.equal(draws.order.sort(1).values, torch.arange(4).expand(2000, 4))
