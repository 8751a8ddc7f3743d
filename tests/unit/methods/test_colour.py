"""The colour floor: four numbers a patch, of pixels alone."""

import pytest
import torch

from tests.contract.cases import FEATURES, Given
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Needs
from usseg_ray.methods.colour import ColourFloor
from usseg_ray.settings.colour import ColourConfig


def floor(
    num_clusters: int = 2, features: FeatureSpec = FEATURES, **settings: float
) -> ColourFloor:
    return ColourFloor(ColourConfig.model_validate(settings), features, num_clusters, seed=0)


def batch_of(pixels: torch.Tensor) -> Batch:
    names = tuple(f"image-{i}" for i in range(len(pixels)))
    return Batch(names, pixels, FeatureMap(torch.full((len(pixels), 1, 1, 1), float("nan"))))


def test_no_backbone_is_needed() -> None:
    assert ColourFloor.needs(ColourConfig()) == Needs(features=False)
    for dim in (1, 384):
        method = floor(features=FeatureSpec(dim, 8, has_attention=False))
        assert method.centroids.shape == (2, 4)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (10, 17)])
def test_patches_cover_an_image_of_any_size(height: int, width: int) -> None:
    pixels = torch.full((1, 3, height, width), 0.25)
    described = floor().describe(batch_of(pixels))[0]
    assert described.shape == (4, -(-height // 8), -(-width // 8))
    torch.testing.assert_close(described[:3], torch.full_like(described[:3], 0.25))
    assert described[3].unique(dim=0).shape[0] == described.shape[1]


def test_without_height_a_colour_is_the_same_everywhere() -> None:
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, 0, 8:16, 16:24] = pixels[:, 0, 24:, :8] = 1.0
    method = floor(height_weight=0.0)
    method.fit_clusters(Given(batch_of(pixels)))
    labels = method.predict(batch_of(pixels)).argmax(1)[0]
    red = labels[1, 2]
    assert (labels == red).nonzero().tolist() == [[1, 2], [3, 0]]
