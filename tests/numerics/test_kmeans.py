"""k-means on tokens against the best of all partitions and against loops."""

from itertools import product

import pytest
import torch
from torch import Tensor

from tests.contract.cases import Given
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.settings.kmeans import KMeansConfig


def tiny(spherical: bool) -> tuple[KMeans, Batch]:
    tokens = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    method = KMeans(
        KMeansConfig(spherical=spherical, restarts=50),
        FeatureSpec(3, 8, has_attention=False),
        num_clusters=3,
        seed=0,
    )
    return method, Batch(("a", "b"), torch.zeros(2, 3, 16, 16), FeatureMap(tokens))


def cost(points: Tensor, labels: tuple[int, ...], spherical: bool) -> float:
    total = 0.0
    for cluster in set(labels):
        members = points[torch.tensor(labels) == cluster]
        centre = members.mean(0)
        centre = centre / centre.norm() if spherical else centre
        total += float((members - centre).square().sum())
    return total


@pytest.mark.parametrize("spherical", [False, True])
def test_finds_the_best_partition(spherical: bool) -> None:
    method, batch = tiny(spherical)
    method.fit_clusters(Given(batch))
    points = batch.features.tokens.permute(0, 2, 3, 1).reshape(8, 3).double()
    points = points / points.norm(dim=1, keepdim=True) if spherical else points
    best = min(cost(points, labels, spherical) for labels in product(range(3), repeat=8))
    found = tuple(method.predict(batch).argmax(1).flatten().tolist())
    assert cost(points, found, spherical) == pytest.approx(best, rel=1e-5)
    for cluster in range(3):
        mean = points[torch.tensor(found) == cluster].mean(0)
        mean = mean / mean.norm() if spherical else mean
        torch.testing.assert_close(method.centroids[cluster].double(), mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
def test_scores_against_loops(spherical: bool) -> None:
    method, batch = tiny(spherical)
    method.fit_clusters(Given(batch))
    scores = method.predict(batch)
    for image, cluster, row, column in product(range(2), range(3), range(2), range(2)):
        token = batch.features.tokens[image, :, row, column]
        centroid = method.centroids[cluster]
        expected = (
            token @ centroid / (token.norm() * centroid.norm())
            if spherical
            else -(token - centroid) @ (token - centroid)
        )
        assert float(scores[image, cluster, row, column]) == pytest.approx(
            float(expected), abs=1e-5
        )
