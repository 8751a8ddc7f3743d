"""The position floor against what geometry says."""

import pytest
import torch
from torch import Tensor

from tests.contract.cases import Given
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.position import PositionFloor
from usseg_ray.settings.position import PatchConfig


def floor(num_clusters: int, patch_size: int = 4) -> PositionFloor:
    spec = FeatureSpec(1, 8, has_attention=False)
    return PositionFloor(PatchConfig(patch_size=patch_size), spec, num_clusters, seed=0)


def blank(height: int, width: int, count: int = 2) -> Batch:
    names = tuple(f"image-{i}" for i in range(count))
    features = FeatureMap(torch.zeros(count, 1, 1, 1))
    return Batch(names, torch.zeros(count, 3, height, width), features)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (10, 15)])
def test_centres_against_loops(height: int, width: int) -> None:
    places = floor(2).describe(blank(height, width))
    rows, columns = -(-height // 4), -(-width // 4)
    assert places.shape == (2, 2, rows, columns)
    for row in range(rows):
        for column in range(columns):
            expected = torch.tensor([(row + 0.5) / rows, (column + 0.5) / columns])
            torch.testing.assert_close(places[1, :, row, column], expected)


def partition(method: PositionFloor, batch: Batch) -> Tensor:
    method.fit_clusters(Given(batch))
    return method.predict(batch).argmax(1)[0]


def test_four_groups_of_a_square_are_its_quarters() -> None:
    labels = partition(floor(4), blank(32, 32))
    quarters = [labels[:4, :4], labels[:4, 4:], labels[4:, :4], labels[4:, 4:]]
    assert all(len(quarter.unique()) == 1 for quarter in quarters)
    assert len(labels.unique()) == 4


def test_every_image_gets_the_same_groups() -> None:
    method, batch = floor(3), blank(32, 48)
    method.fit_clusters(Given(batch))
    scores = method.predict(batch)
    assert torch.equal(scores[0], scores[1])
    places = method.describe(batch)
    for cluster in range(3):
        gap = places - method.centroids[cluster].view(1, 2, 1, 1)
        torch.testing.assert_close(scores[:, cluster], -gap.square().sum(1))
