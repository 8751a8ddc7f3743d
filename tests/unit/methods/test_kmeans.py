"""k-means as a method: what is sampled, what a direction is, and when there are too few tokens."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.contract.cases import DIM, FEATURES, Given, Walks, make_batch, with_tokens
from usseg_ray.core.errors import UserError
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.settings.kmeans import KMeansConfig


def build(num_clusters: int = 3, **settings: bool | int) -> KMeans:
    return KMeans(KMeansConfig.model_validate(settings), FEATURES, num_clusters, seed=0)


def fitted(num_clusters: int = 3, **settings: bool | int) -> KMeans:
    method = build(num_clusters, **settings)
    method.fit_clusters(Walks(range(6)))
    return method


def rows(tokens: Tensor) -> Tensor:
    return tokens.flatten(2).mT.flatten(0, 1)


def test_so_many_tokens_a_cluster_are_sampled() -> None:
    known = rows(make_batch(range(6)).features.tokens)

    def farthest(method: KMeans) -> float:
        gaps = method.centroids[:, None] - known
        return float(gaps.norm(dim=2).amin(1).max())

    # As many tokens as clusters: every centroid is one of them.
    assert farthest(fitted(spherical=False, points_per_cluster=1)) < 1e-5
    assert farthest(fitted(spherical=False, points_per_cluster=500)) > 0.1


@pytest.mark.parametrize("spherical", [True, False])
def test_a_direction_has_no_length(spherical: bool) -> None:
    method, batch = fitted(spherical=spherical), make_batch([7])
    longer = with_tokens(batch, 5 * batch.features.tokens)
    same = torch.allclose(method.predict(longer), method.predict(batch), atol=1e-6)
    assert same == spherical


def test_codes_are_the_tokens_without_a_gradient() -> None:
    method, batch = build(), make_batch(range(2))
    tokens = batch.features.tokens.clone().requires_grad_()
    codes = method.encode(replace(batch, features=replace(batch.features, tokens=tokens)))
    assert torch.equal(codes, tokens)
    assert not codes.requires_grad
    assert method.dim(FEATURES) == DIM == method.centroids.shape[1]


def test_fewer_distinct_tokens_than_clusters_are_refused() -> None:
    batch = make_batch([0])
    flat = with_tokens(batch, torch.ones_like(batch.features.tokens))
    with pytest.raises(UserError, match=r"asked for 3 groups.*tokens"):
        build().fit_clusters(Given(flat))


def test_classifying_codes_is_predicting() -> None:
    method, batch = fitted(), make_batch(range(2))
    assert torch.equal(method.predict(batch), method.classify(method.encode(batch)))
    assert method.predict(batch).argmax(1).unique().tolist() == [0, 1, 2]
