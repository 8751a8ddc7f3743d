"""k-means: what it finds, determinism and what it refuses."""

from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor

from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.ops import kmeans as module
from usseg_ray.ops.kmeans import assign, available_backend, fit_shared, kmeans, similarity
from usseg_ray.ops.sampling import PointSample


def blobs(k: int = 4, per_blob: int = 30, dim: int = 6, spread: float = 0.05) -> Tensor:
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(k, dim, generator=random)
    noise = spread * torch.randn(k, per_blob, dim, generator=random)
    return (centres[:, None] + noise).flatten(0, 1)


def same_partition(left: Tensor, right: Tensor) -> bool:
    pairs = torch.stack([left, right], dim=1).unique(dim=0)
    return len(pairs) == len(left.unique()) == len(right.unique())


def test_what_computes_is_named() -> None:
    assert available_backend(torch.device("cpu")) == "faiss-cpu"


@pytest.mark.parametrize("spherical", [False, True])
def test_finds_separate_blobs(spherical: bool) -> None:
    points = blobs()
    result = kmeans(points, 4, seed=0, spherical=spherical)
    truth = torch.arange(4).repeat_interleave(30)
    assert same_partition(assign(points, result.centroids, spherical=spherical), truth)
    target = torch.nn.functional.normalize(points, dim=1) if spherical else points
    means = target.view(4, 30, 6).mean(1)
    expected = (target - means.repeat_interleave(30, dim=0)).square().sum()
    assert result.inertia == pytest.approx(float(expected), rel=0.01)
    if spherical:
        torch.testing.assert_close(result.centroids.norm(dim=1), torch.ones(4))


def test_same_seed_same_centroids() -> None:
    points = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    first, again, other = (kmeans(points, 9, seed, restarts=1) for seed in (0, 0, 1))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_restarts_keep_the_best() -> None:
    points = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    inertia = [kmeans(points, 9, 0, restarts=restarts).inertia for restarts in (1, 5, 20)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[2] < inertia[0]


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    kmeans(blobs(), 4, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("spherical", [False, True])
def test_as_many_groups_as_distinct_points(spherical: bool) -> None:
    points = torch.eye(3).repeat(40, 1)
    result = kmeans(points, 3, 0, spherical=spherical)
    assert result.inertia == pytest.approx(0, abs=1e-9)
    assert len(assign(points, result.centroids, spherical=spherical).unique()) == 3


def test_too_few_distinct_points() -> None:
    with pytest.raises(UserError, match=r"4 groups.*only 3 distinct points.*num_clusters"):
        kmeans(torch.eye(3).repeat(40, 1), 4, 0)


def test_no_points_at_all() -> None:
    with pytest.raises(UserError, match=r"only 0 distinct regions"):
        fit_shared(PointSample(3, 10), 2, 0, noun="regions")


def test_infinite_features() -> None:
    points = blobs()
    points[5, 2] = float("inf")
    with pytest.raises(UserError, match="not finite"):
        kmeans(points, 2, 0)


def test_zero_rows_stay_finite() -> None:
    points = torch.cat([torch.zeros(20, 6), blobs()])
    assert kmeans(points, 5, 0, spherical=True).centroids.isfinite().all()


def test_a_group_of_no_points_is_refilled() -> None:
    points = torch.tensor([[10.0], [10.1], [11.0], [11.1]])
    starts = torch.tensor([[10.0], [50.0]])
    centroids = module._lloyd(points, starts, spherical=False, iterations=20, gpu=False)
    torch.testing.assert_close(centroids.sort(dim=0).values, torch.tensor([[10.05], [11.05]]))


def test_similarity_is_larger_when_nearer() -> None:
    points, centroids = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    torch.testing.assert_close(similarity(points, centroids), torch.tensor([[-4.0, -25.0]]))
    torch.testing.assert_close(
        similarity(points, centroids, spherical=True), torch.tensor([[1.0, 0.0]])
    )


def test_the_nearest_centroid_by_angle_is_another_than_by_distance() -> None:
    points, centroids = torch.tensor([[1.0, 1.0]]), torch.tensor([[9.0, 9.0], [1.0, 0.0]])
    assert assign(points, centroids).tolist() == [1]
    assert assign(points, centroids, spherical=True).tolist() == [0]


def starts_by_definition(rows: np.ndarray, draws: list[float]) -> list[int]:
    """Rows that k-means++ takes, number by number."""
    taken: list[int] = []
    for draw in draws:
        mass = [min((((row - rows[t]) ** 2).sum() for t in taken), default=1.0) for row in rows]
        left = draw * sum(mass)
        taken.append(next(at for at, total in enumerate(accumulate(mass)) if total > left))
    return taken


@pytest.mark.parametrize("seed", range(5))
def test_starts_are_drawn_by_their_squared_distances(seed: int) -> None:
    # Far from the origin, some of them twice: neither place nor copies may matter.
    # Few, so that first and last ones are drawn too.
    rows = 5 + torch.randint(8, (12, 3), generator=torch.Generator().manual_seed(seed)).float()
    draws = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = module._plus_plus(rows, 9, torch.Generator().manual_seed(seed))
    expected = rows[starts_by_definition(rows.double().numpy(), draws.tolist())]
    assert torch.equal(found, expected)
    assert len(found.unique(dim=0)) == 9


def test_a_start_has_as_many_updates_as_asked() -> None:
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    starts = module._plus_plus(points, 7, shared_generator(0, "kmeans", 0))
    for updates in (1, 2, 5):
        moved = starts
        for _ in range(updates):
            nearest = torch.cdist(points, moved).argmin(1)
            moved = torch.stack([points[nearest == k].mean(0) for k in range(7)])
        found = kmeans(points, 7, 0, restarts=1, iterations=updates).centroids
        torch.testing.assert_close(found, moved, atol=1e-4, rtol=0)


def test_all_points_count_however_many_and_however_few() -> None:
    # faiss would take 256 of each group, and warn of groups of fewer than 39.
    points = torch.cat([torch.zeros(3000, 1), torch.arange(3.0)[:, None] + 100])
    found = kmeans(points, 2, 0).centroids.flatten().sort().values
    assert found.tolist() == [0, 101]
    many = torch.rand(3000, 1, generator=torch.Generator().manual_seed(1))
    assert kmeans(many, 1, 0).centroids.item() == pytest.approx(many.mean().item(), abs=1e-5)


def test_a_shared_fit_tells_its_inertia() -> None:
    sample = PointSample(6, 1000)
    points = blobs()
    sample.add(points, 0)
    found = fit_shared(sample, 3, 0)
    nearest = torch.cdist(points, found.centroids).amin(1)
    assert found.inertia == pytest.approx(float(nearest.square().sum()), rel=1e-4)


def test_near_points_far_from_the_origin_are_told_apart() -> None:
    centroids = 3000 + torch.arange(40.0)[:, None] * torch.full((1, 3), 0.01)
    assert assign(centroids, centroids).tolist() == list(range(40))
