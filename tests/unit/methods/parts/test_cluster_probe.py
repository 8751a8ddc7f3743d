"""The cluster probe: hard and soft membership, and which centroids move."""

import math

import pytest
import torch

from usseg_ray.methods.parts.cluster_probe import ClusterProbe


def probe(centroids: list[list[float]]) -> ClusterProbe:
    module = ClusterProbe(len(centroids), len(centroids[0]), torch.Generator())
    with torch.no_grad():
        module.centroids.copy_(torch.tensor(centroids))
    return module


def codes(*vectors: list[float]) -> torch.Tensor:
    return torch.tensor(vectors).T[None, :, None]


def test_scores_are_cosines() -> None:
    module = probe([[2.0, 0.0], [0.0, 0.5]])
    scores = module(codes([3.0, 4.0], [-1.0, 0.0]))
    torch.testing.assert_close(scores, torch.tensor([[[[0.6, -1.0]], [[0.8, 0.0]]]]))


def test_projections_keep_an_images_lengths_in_proportion() -> None:
    module = probe([[2.0, 0.0], [0.0, 0.5]])
    scores = module.projections(codes([3.0, 4.0], [-1.0, 0.0]), 3.0)
    # Mean length 3, so a code of that length would have cosines times 3.
    torch.testing.assert_close(scores, torch.tensor([[[[3.0, -1.0]], [[4.0, 0.0]]]]))
    assert torch.equal(module.projections(torch.zeros(1, 2, 2, 2), 3.0), torch.zeros(1, 2, 2, 2))


def test_loss_of_hard_and_soft_members() -> None:
    module, points = probe([[1.0, 0.0], [0.0, 1.0]]), codes([0.6, 0.8], [1.0, 0.0])
    assert module.loss(points).item() == pytest.approx(-0.9)
    soft = [
        (a * math.exp(3 * a) + b * math.exp(3 * b)) / (math.exp(3 * a) + math.exp(3 * b))
        for a, b in ((0.6, 0.8), (1.0, 0.0))
    ]
    assert module.loss(points, 3.0).item() == pytest.approx(-sum(soft) / 2)


def test_a_centroid_that_never_wins_never_moves() -> None:
    module, points = probe([[1.0, 0.1], [-1.0, 0.0], [0.0, -1.0]]), codes([1.0, 0.0], [1.0, 0.4])
    module.loss(points).backward()
    assert module.centroids.grad is not None
    assert [bool(row.any()) for row in module.centroids.grad] == [True, False, False]
    (gradient,) = torch.autograd.grad(module.loss(points, 2.0), module.centroids)
    assert all(row.any() for row in gradient)


def test_zero_codes_are_finite() -> None:
    module = probe([[1.0, 0.0], [0.0, 1.0]])
    loss = module.loss(torch.zeros(1, 2, 2, 2))
    loss.backward()
    assert loss == 0
    assert module.centroids.grad is not None
    assert module.centroids.grad.isfinite().all()


def test_learning_finds_the_groups() -> None:
    random = torch.Generator().manual_seed(0)
    centres = torch.eye(4)[torch.arange(400) % 4]
    points = (centres + 0.1 * torch.randn(400, 4, generator=random)).T.reshape(1, 4, 20, 20)
    module = ClusterProbe(4, 4, torch.Generator().manual_seed(2))
    with torch.no_grad():
        module.centroids.copy_(torch.eye(4) + 0.5 * torch.rand(4, 4, generator=random))
    adam = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(60):
        adam.zero_grad()
        module.loss(points).backward()
        adam.step()
    directions = torch.nn.functional.normalize(module.centroids.detach(), dim=1)
    torch.testing.assert_close(directions, torch.eye(4), atol=0.05, rtol=0)


def test_of_two_sets_of_centroids_one_scores_and_one_learns() -> None:
    module = ClusterProbe(2, 2, torch.Generator(), both=True)
    points, learnt = codes([3.0, 4.0], [-1.0, 0.0]), module.centroids.detach().clone()
    before, loss = module(points), module.loss(points)
    module.group(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    grouped = torch.tensor([[[[0.6, -1.0]], [[0.8, 0.0]]]])
    torch.testing.assert_close(module(points), grouped)
    assert torch.equal(module.centroids, learnt)
    assert module.loss(points) == loss
    kinds = module.kinds("probe")
    assert list(kinds) == ["kmeans", "probe"]
    kinds["probe"]()
    assert torch.equal(module(points), before)
    other = ClusterProbe(2, 2, torch.Generator().manual_seed(3), both=True)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(points), before)
    kinds["kmeans"]()
    torch.testing.assert_close(module(points), grouped)
