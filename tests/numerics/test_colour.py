"""The colour floor against loops over pixels."""

import pytest
import torch

from tests.contract.cases import Given
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.colour import ColourFloor
from usseg_ray.settings.colour import ColourConfig


def floor(num_clusters: int, height_weight: float) -> ColourFloor:
    config = ColourConfig(patch_size=4, height_weight=height_weight)
    return ColourFloor(config, FeatureSpec(1, 8, has_attention=False), num_clusters, seed=0)


def batch_of(pixels: torch.Tensor) -> Batch:
    names = tuple(f"image-{i}" for i in range(len(pixels)))
    return Batch(names, pixels, FeatureMap(torch.zeros(len(pixels), 1, 1, 1)))


@pytest.mark.parametrize("height_weight", [0.0, 0.5, 2.0])
def test_description_against_loops(height_weight: float) -> None:
    pixels = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    described = floor(2, height_weight).describe(batch_of(pixels))
    assert described.shape == (2, 4, 2, 3)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                patch = pixels[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                mean = [sum(c.flatten().tolist()) / 16 for c in patch]
                expected = torch.tensor([*mean, height_weight * (row + 0.5) / 2])
                torch.testing.assert_close(described[image, :, row, column], expected)


def stripes() -> Batch:
    """Red left, blue right; both from top to bottom."""
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, 0, :, :16] = 0.2
    pixels[:, 2, :, 16:] = 0.2
    return batch_of(pixels)


@pytest.mark.parametrize(("height_weight", "by_colour"), [(0.0, True), (10.0, False)])
def test_weight_decides_between_colour_and_height(height_weight: float, by_colour: bool) -> None:
    method = floor(2, height_weight)
    method.fit_clusters(Given(stripes()))
    labels = method.predict(stripes()).argmax(1)[0]
    halves = (labels[:, :4], labels[:, 4:]) if by_colour else (labels[:4], labels[4:])
    assert [len(half.unique()) for half in halves] == [1, 1]
    assert len(labels.unique()) == 2
