"""The official forms, each against its definition; tests/numerics holds them against ours."""

import numpy as np
import torch
from torch.nn.functional import normalize

from usseg_ray.bench.naive import (
    ConceptKeys,
    ConceptLists,
    dense_clusterbook_losses,
    kmeans_update,
    nearest_labels,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_cell_gets_the_nearest_centroid() -> None:
    features, centroids = normalize(noise(2, 8, 3, 5), dim=1), noise(6, 8, seed=1)
    rows = features.permute(0, 2, 3, 1).reshape(-1, 8)
    expected = torch.cdist(rows, centroids).argmin(1).view(2, 3, 5)
    assert torch.equal(nearest_labels(features, centroids), expected)


def test_centroids_are_means_of_what_they_have_seen() -> None:
    rows = noise(40, 4).numpy()
    centroids, counts = rows[:3].copy(), np.zeros(3, np.int64)
    nearest = np.square(rows[:, None] - centroids).sum(2).argmin(1)
    found, seen = kmeans_update(rows, centroids, counts)
    assert seen.tolist() == np.bincount(nearest, minlength=3).tolist()
    for cluster in range(3):
        own = rows[nearest == cluster].mean(0)
        np.testing.assert_allclose(found[cluster], own, rtol=1e-4, atol=1e-5)


def test_a_rate_falls_with_what_was_seen_before() -> None:
    rows, start = np.full((2, 3), 4, np.float32), np.zeros((1, 3), np.float32)
    found, seen = kmeans_update(rows, start, np.array([6]))
    assert seen.tolist() == [8]
    np.testing.assert_allclose(found, 4 * 2 / 8, rtol=1e-5)


def test_one_code_for_all_has_no_modularity() -> None:
    # Of one community nothing is above chance, nor below it.
    tokens, direction = noise(2, 9, 6).abs(), torch.ones(6)
    same = direction.expand(3, 6) * 100
    losses = dense_clusterbook_losses(tokens, same, temperature=1e-6)
    torch.testing.assert_close(losses, torch.zeros(2), rtol=0, atol=1e-5)


def test_two_groups_with_codes_of_their_own_have() -> None:
    groups = torch.eye(2).repeat_interleave(4, 0)
    loss = dense_clusterbook_losses(groups[None], torch.eye(2), temperature=1e-6)
    torch.testing.assert_close(loss, torch.tensor([-0.5]))


def test_lists_keep_their_newest_entries_with_their_codes() -> None:
    lists = ConceptLists(torch.eye(2), dim=3, capacity=2)
    values = noise(6, 3)
    codes = torch.tensor([0, 0, 0, 0, 1, 1])
    lists.update(values, codes, torch.tensor([0.9, 0.1, 0.2, 0.3, 0.5, 0.4]))
    kept = lists.rebuild()
    assert isinstance(kept, ConceptKeys)
    # Half of each code's tokens, those of the lowest priorities first.
    assert torch.equal(kept.values, values[[1, 2, 5]])
    assert torch.equal(kept.concepts, torch.eye(2)[[0, 0, 1]])
    lists.update(values[:2], torch.tensor([0, 0]), torch.tensor([0.0, 1.0]))
    assert torch.equal(lists.rebuild().values, values[[2, 0, 5]])
