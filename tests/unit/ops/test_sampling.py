"""The sample depends on the images alone, not on their order."""

import pytest
import torch
from torch import Tensor

from usseg_ray.ops.sampling import PointSample, holding


def images(count: int, rows: int) -> dict[str, Tensor]:
    """Points that name their image and row."""
    return {
        f"image-{i}": torch.stack([torch.full((rows,), i), torch.arange(rows)], dim=1).float()
        for i in range(count)
    }


def sampled(points: dict[str, Tensor], limit: int, order: list[str]) -> Tensor:
    sample = PointSample(2, limit)
    for name in order:
        sample.add(points[name], 7, "test", name)
    return sample.gather()


@pytest.mark.parametrize("limit", [1, 10, 59, 60, 1000])
def test_order_of_images_does_not_matter(limit: int) -> None:
    points = images(12, 5)
    names = list(points)
    forward = sampled(points, limit, names)
    assert torch.equal(forward, sampled(points, limit, names[::-1]))
    assert len(forward) == min(limit, 60)
    assert len(forward.unique(dim=0)) == len(forward)


def test_sample_is_even_over_images_and_rows() -> None:
    points = images(200, 50)
    rows = sampled(points, 2000, list(points))
    assert rows[:, 0].mean().item() == pytest.approx(99.5, abs=5)
    assert rows[:, 1].mean().item() == pytest.approx(24.5, abs=1.5)
    assert len(rows[:, 0].unique()) == 200


def test_key_changes_the_sample() -> None:
    points = images(1, 100)["image-0"]
    kept = []
    for seed in (0, 1):
        sample = PointSample(2, 10)
        sample.add(points, seed, "test", "image-0")
        kept.append(sample.gather())
    assert not torch.equal(*kept)


@pytest.mark.parametrize("limit", [1, 7, 15])
def test_images_that_hold_points_are_known_before(limit: int) -> None:
    points = images(12, 5)
    names = list(points)
    holders = holding(names, 5, limit, 7, "test")
    whole = sampled(points, limit, names)
    assert holders == {names[int(number)] for number in whole[:, 0].unique()}
    assert torch.equal(whole, sampled(points, limit, sorted(holders)))
    assert len(holders) < len(names)


def test_all_images_hold_points_of_a_large_sample() -> None:
    assert holding(["a", "b"], 5, 10, 7) is None
    assert holding(["a", "b"], 5, 9, 7) is None


def test_empty_sample_keeps_its_shape() -> None:
    assert PointSample(3, 10).gather().shape == (0, 3)
