"""The position floor sees where a patch lies, and nothing else."""

import pytest
import torch

from tests.contract.cases import FEATURES, Given
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Needs
from usseg_ray.methods.position import PositionFloor
from usseg_ray.settings.position import PatchConfig


def floor(
    num_clusters: int = 4, patch_size: int = 8, features: FeatureSpec = FEATURES
) -> PositionFloor:
    return PositionFloor(PatchConfig(patch_size=patch_size), features, num_clusters, seed=0)


def batch_of(pixels: torch.Tensor) -> Batch:
    names = tuple(f"image-{i}" for i in range(len(pixels)))
    return Batch(names, pixels, FeatureMap(torch.full((len(pixels), 1, 1, 1), float("nan"))))


def noise(side: int, seed: int = 0) -> Batch:
    return batch_of(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)))


def test_no_backbone_is_needed() -> None:
    assert PositionFloor.needs(PatchConfig()) == Needs(features=False)
    for dim in (1, 384):
        method = floor(features=FeatureSpec(dim, 8, has_attention=False))
        assert method.centroids.shape == (4, 2)


def test_what_an_image_shows_changes_nothing() -> None:
    method = floor()
    method.fit_clusters(Given(noise(64)))
    assert torch.equal(method.predict(noise(64, 1)), method.predict(noise(64, 2)))
    again = floor()
    again.fit_clusters(Given(noise(64, 3)))
    assert torch.equal(again.centroids, method.centroids)


def test_places_are_shares_of_the_image_whatever_its_size() -> None:
    method = floor()
    method.fit_clusters(Given(noise(64)))
    small, large = (method.predict(noise(side)).argmax(1) for side in (64, 128))
    assert (small.shape[1:], large.shape[1:]) == ((8, 8), (16, 16))
    assert torch.equal(large, small.repeat_interleave(2, 1).repeat_interleave(2, 2))


@pytest.mark.parametrize("side", [5, 8])
def test_an_image_of_one_patch_has_its_place_in_the_middle(side: int) -> None:
    assert floor().describe(noise(side)).flatten().tolist() == [0.5] * 4
