"""Clusters of two views: labels, counts, weights, and which labels a loss reads."""

import torch
from torch import Tensor

from usseg_ray.methods.parts.view_clusters import ViewClusters, cross_view_terms


def clusters(*views: list[list[float]]) -> ViewClusters:
    count, k, dim = len(views), len(views[0]), len(views[0][0])
    made = ViewClusters(count, k, dim, torch.Generator())
    made.centroids.copy_(torch.tensor(views))
    return made


def codes(*vectors: list[float]) -> Tensor:
    """Lays out one image, a row of cells."""
    return torch.tensor(vectors).T[None, :, None]


def test_before_there_are_clusters_centroids_are_drawn_directions() -> None:
    first, again = (ViewClusters(2, 5, 3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.centroids, again.centroids)
    torch.testing.assert_close(first.centroids.norm(dim=2), torch.ones(2, 5))
    assert set(first.state_dict()) == {"centroids", "counts", "distance"}


def test_every_view_is_labelled_by_its_own_centroids() -> None:
    made = clusters([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]])
    seen = codes([1.0, 0.0], [0.9, 0.1], [0.0, 1.0])
    first, second = made.label([seen, seen])
    assert first.tolist() == [[[0, 0, 1]]]
    assert second.tolist() == [[[1, 1, 0]]]
    assert made.cells([seen, seen]).tolist() == [[2, 1], [1, 2]]


def test_logits_are_products_with_the_centroids_of_a_view() -> None:
    made = clusters([[1.0, 2.0], [0.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]])
    assert made.logits(codes([0.5, 0.25]), 1).flatten().tolist() == [0.75, 0.5]


def test_class_weights() -> None:
    clustering = ViewClusters(1, 4, 3, torch.Generator())
    clustering.counts.copy_(torch.tensor([[2, 0, 6, 8]]))
    close = torch.testing.assert_close
    close(clustering.weights("frequency")[0], torch.tensor([2, 0, 6, 8]) / 16)
    close(clustering.weights("balanced")[0], torch.tensor([2.0, 0, 2 / 3, 0.5]))
    close(clustering.weights("none")[0], torch.ones(4))
    clustering.counts.zero_()
    assert all(clustering.weights(kind).isfinite().all() for kind in ("frequency", "balanced"))


def test_a_loss_within_reads_the_own_view_and_one_across_the_other() -> None:
    # View 1 tells its clusters apart, view 2 has them the wrong way round.
    made = clusters([[9.0, 0.0], [0.0, 9.0]], [[0.0, 9.0], [9.0, 0.0]])
    seen = codes([1.0, 0.0], [0.0, 1.0])
    right = [torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0]]])]
    terms = cross_view_terms([seen, seen], right, made, "none")
    assert max(terms.within, terms.across) < 1e-3
    crossed = cross_view_terms([seen, seen], [right[0], right[0]], made, "none")
    # Half of the terms, those that read labels of view 2, are wrong by nine.
    torch.testing.assert_close(crossed.within, torch.tensor(4.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(crossed.across, torch.tensor(4.5), atol=1e-3, rtol=0)
    half = cross_view_terms([seen, -seen], right, made, "none")
    torch.testing.assert_close(half.within, torch.tensor(4.5), atol=1e-3, rtol=0)
