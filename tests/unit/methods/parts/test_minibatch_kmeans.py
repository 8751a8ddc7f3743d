"""Mini-batch k-means: starts, splits, schedules and errors."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.core.errors import UserError
from usseg_ray.methods.parts.minibatch_kmeans import (
    CellSums,
    MiniBatchKMeans,
    Schedule,
    lloyd,
    nearest,
    nearness,
    split_into_empty,
)

SEED = torch.Generator


def blobs(images: int, cells: int = 40, dim: int = 6) -> Tensor:
    """Images of unit cells, a column each, around four directions."""
    centres = torch.randn(4, dim, generator=SEED().manual_seed(0))
    found = []
    for image in range(images):
        random = SEED().manual_seed(image + 1)
        labels = torch.randint(4, (cells,), generator=random)
        noise = 0.2 * torch.randn(cells, dim, generator=random)
        found.append(normalize(centres[labels] + noise, dim=1).T)
    return torch.stack(found)


def names(images: Tensor, first: int = 0) -> list[str]:
    return [f"image-{first + index}" for index in range(len(images))]


def test_nearest_is_by_distance_not_by_product() -> None:
    features = torch.randn(2, 5, 3, 4, generator=SEED().manual_seed(3))
    centroids = torch.randn(7, 5, generator=SEED().manual_seed(4)) * torch.arange(1, 8)[:, None]
    rows = features.permute(0, 2, 3, 1).reshape(-1, 5)
    expected = torch.cdist(rows, centroids).argmin(1).view(2, 3, 4)
    assert torch.equal(nearest(features, centroids), expected)
    assert torch.equal(nearness(rows.T[None], centroids)[0].argmax(0).view(2, 3, 4), expected)
    assert not torch.equal((rows @ centroids.T).argmax(1).view(2, 3, 4), expected)


def test_tally_sums_what_it_assigns() -> None:
    rows = blobs(1)[0].T
    centroids = rows[:3]
    tally = CellSums.empty(centroids)
    tally.add(rows.T[None], centroids)
    distances = torch.cdist(rows, centroids).square()
    label = distances.argmin(1)
    assert torch.equal(tally.counts, torch.bincount(label, minlength=3))
    means = torch.stack([rows[label == k].mean(0) for k in range(3)])
    torch.testing.assert_close(tally.means().float(), means)
    assert tally.mean_distance() == pytest.approx(float(distances.min(1).values.mean()), abs=1e-6)


def test_lloyd_does_not_depend_on_the_order_of_the_images() -> None:
    images = blobs(6)
    starts = images[0].T[:4]
    forward = lloyd([images], starts, 5, SEED().manual_seed(0))
    backward = lloyd(images.flip(0).split(1), starts, 5, SEED().manual_seed(0))
    assert torch.equal(forward.centroids, backward.centroids)
    assert torch.equal(forward.counts, backward.counts)
    assert forward.distance == backward.distance
    assert lloyd([images], starts, 0, SEED()).distance > forward.distance


def test_empty_clusters_get_half_of_another() -> None:
    centroids = torch.tensor([[1.0, 2.0], [5.0, 5.0], [9.0, 9.0]])
    counts = torch.tensor([8, 0, 1])
    split = split_into_empty(centroids, counts, SEED().manual_seed(0))
    step = 1 / 1024
    torch.testing.assert_close(split[1], centroids[0] * torch.tensor([1 + step, 1 - step]))
    torch.testing.assert_close(split[0], centroids[0] * torch.tensor([1 - step, 1 + step]))
    assert torch.equal(split[2], centroids[2])
    assert torch.equal(counts, torch.tensor([8, 0, 1]))


def test_donors_are_drawn_in_proportion_to_their_size() -> None:
    centroids, counts = torch.eye(4), torch.tensor([301, 101, 1, 0])
    random, donors = SEED().manual_seed(0), [0, 0]
    for _ in range(400):
        split = split_into_empty(centroids, counts, random)
        donors[int(split[3].argmax())] += 1
    assert donors[0] / 400 == pytest.approx(0.75, abs=0.06)


def test_single_rows_are_never_split() -> None:
    centroids, counts = torch.eye(3), torch.tensor([1, 1, 0])
    assert torch.equal(split_into_empty(centroids, counts, SEED()), centroids)


def test_lloyd_fills_a_cluster_that_starts_too_far() -> None:
    images = blobs(4)
    starts = torch.cat([images[0].T[:3], torch.full((1, 6), 50.0)])
    assert lloyd([images], starts, 0, SEED()).counts[3] == 0
    found = lloyd([images], starts, 10, SEED().manual_seed(0))
    assert (found.counts > 0).all()


def fitted(images: Tensor, schedule: Schedule, batch: int = 2) -> MiniBatchKMeans:
    machine = MiniBatchKMeans(4, 6, schedule, "test")
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        machine.feed(names(part, start), part)
    return machine


def test_clusters_are_found() -> None:
    found = fitted(blobs(10), Schedule(2)).finish()
    assert found.counts.sum() == 400
    assert found.distance < 0.3
    assert (found.centroids.norm(dim=1) < 1).all()


def test_starts_are_rows_and_follow_the_key() -> None:
    images = blobs(4)
    starts = []
    for key in ("a", "a", "b"):
        machine = MiniBatchKMeans(5, 6, Schedule(9, iterations=0), key)
        machine.feed(names(images), images)
        starts.append(machine.finish().centroids)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    rows = images.mT.flatten(0, 1)
    assert all((rows == start).all(1).any() for start in starts[0])
    assert len(starts[0].unique(dim=0)) == 5


def test_images_of_a_batch_may_come_in_any_order() -> None:
    images = blobs(6)
    found = []
    for order in (range(6), range(5, -1, -1)):
        machine = MiniBatchKMeans(4, 6, Schedule(1), "test")
        for batch in (order[:3], order[3:]) if order[0] == 0 else (order[3:], order[:3]):
            machine.feed([f"image-{i}" for i in batch], images[list(batch)])
        found.append(machine.finish())
    assert torch.equal(found[0].centroids, found[1].centroids)
    assert found[0].distance == found[1].distance


def test_an_unfinished_group_is_dropped() -> None:
    images = blobs(7)
    whole = fitted(images[:5], Schedule(1, group_batches=2), batch=1).finish()
    longer = fitted(images[:6], Schedule(1, group_batches=2), batch=1).finish()
    assert torch.equal(whole.centroids, longer.centroids)
    assert torch.equal(whole.counts, longer.counts)


def test_too_few_rows_are_refused() -> None:
    machine = MiniBatchKMeans(50, 6, Schedule(3), "test")
    machine.feed(["a"], blobs(1))
    with pytest.raises(UserError, match=r"asked for 50 groups.*only 40 feature cells"):
        machine.finish()
    machine = MiniBatchKMeans(50, 6, Schedule(1), "test")
    with pytest.raises(UserError, match=r"Lower num_clusters"):
        machine.feed(["a"], blobs(1))


def test_equal_rows_stay_finite() -> None:
    flat = torch.full((4, 6, 30), 6**-0.5)
    found = fitted(flat, Schedule(1)).finish()
    assert found.centroids.isfinite().all()
    assert found.counts.sum() == 120
    assert found.distance == pytest.approx(0, abs=1e-5)
