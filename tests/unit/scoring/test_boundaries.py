"""Boundaries are counted as a loop over pixels would, and add up over batches."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usseg_ray.scoring.boundaries import boundary_counts

IGNORE, CLASSES = 5, 3
# An image of 40 x 30 has a diagonal of 50 pixels.
DIAGONAL = 50


def halves(column: int, height: int = 40, width: int = 30) -> Tensor:
    """Two regions, the second from `column` on."""
    return (torch.arange(width) >= column).long().expand(1, height, width).clone()


def naive(clusters: list[list[int]], labels: list[list[int]], radius: int) -> list[int]:
    """One image, from the definition."""
    height, width = len(labels), len(labels[0])

    def labelled(y: int, x: int) -> bool:
        return labels[y][x] in range(CLASSES) and labels[y][x] != IGNORE

    def boundary(ids: list[list[int]]) -> set[tuple[int, int]]:
        return {
            (y, x)
            for y, x in product(range(height), range(width))
            for v, u in ((y, x + 1), (y + 1, x))
            if v < height and u < width and labelled(y, x) and labelled(v, u)
            if ids[y][x] != ids[v][u]
        }

    def near(some: set[tuple[int, int]], others: set[tuple[int, int]]) -> int:
        return sum(any(max(abs(y - v), abs(x - u)) <= radius for v, u in others) for y, x in some)

    predicted, true = boundary(clusters), boundary(labels)
    return [len(predicted), near(predicted, true), len(true), near(true, predicted)]


sides = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


@given(sides, st.integers(0, 2**31), st.sampled_from([0.0, 0.2, 0.35, 0.6]))
def test_boundaries_are_counted_like_a_loop(
    shape: tuple[int, int, int], seed: int, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clusters = torch.randint(0, 3, shape, generator=generator)
    known = torch.tensor([0, 0, 0, 1, 1, 2, IGNORE, -1, 9])
    labels = known[torch.randint(0, len(known), shape, generator=generator)]
    radius = max(1, round(tolerance * (shape[1] ** 2 + shape[2] ** 2) ** 0.5))
    each = [naive(c, y, radius) for c, y in zip(clusters.tolist(), labels.tolist(), strict=True)]
    counts = boundary_counts(clusters, labels, IGNORE, CLASSES, tolerance)
    assert counts.dtype == torch.int64
    assert counts.tolist() == torch.tensor(each).sum(0).tolist()


def test_a_boundary_is_found_up_to_the_tolerance_and_not_beyond() -> None:
    for distance in range(6):
        found = 40 if distance <= 3 else 0
        counts = boundary_counts(halves(10 + distance), halves(10), IGNORE, CLASSES, 3 / DIAGONAL)
        assert counts.tolist() == [40, found, 40, found]


def test_the_tolerance_is_one_pixel_at_least_and_three_at_320() -> None:
    def reached(size: int) -> int:
        labels = halves(5, size, size)
        return sum(
            bool(boundary_counts(halves(5 + d, size, size), labels, IGNORE, CLASSES)[1])
            for d in range(1, 6)
        )

    assert reached(12) == 1
    assert reached(320) == 3


def test_precision_and_recall_are_counted_apart() -> None:
    clusters = halves(10) + halves(20)
    counts = boundary_counts(clusters, halves(10), IGNORE, CLASSES)
    assert counts.tolist() == [80, 40, 40, 40]


def test_a_corner_is_one_boundary_pixel() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 2:, 2:] = 1
    assert boundary_counts(labels, labels, IGNORE, CLASSES).tolist() == [4, 4, 4, 4]
    labels = 1 - labels.flip(1, 2)
    assert boundary_counts(labels, labels, IGNORE, CLASSES).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("nothing", [IGNORE, -1, CLASSES])
def test_what_touches_unlabelled_pixels_is_neither_right_nor_wrong(nothing: int) -> None:
    labels = halves(10)
    labels[:, :, 9:12] = nothing
    # Next to the band, at its edges, and in it.
    for column in (9, 10, 11, 12):
        assert boundary_counts(halves(column), labels, IGNORE, CLASSES).tolist() == [0, 0, 0, 0]
    assert boundary_counts(halves(13), labels, IGNORE, CLASSES).tolist() == [40, 0, 0, 0]


def test_the_ignored_value_may_be_one_of_the_classes() -> None:
    labels = halves(10)
    assert boundary_counts(labels, labels, 1, CLASSES).tolist() == [0, 0, 0, 0]


def test_names_of_clusters_do_not_matter() -> None:
    labels = halves(10)
    renamed = torch.tensor([26, 7])[labels]
    assert boundary_counts(renamed, labels, IGNORE, CLASSES).tolist() == [40, 40, 40, 40]


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(0, 9, (5, 50, 60), generator=generator)
    labels = torch.randint(0, CLASSES + 1, (5, 50, 60), generator=generator)
    whole = boundary_counts(clusters, labels, IGNORE, CLASSES)
    parts = [
        boundary_counts(c, y, IGNORE, CLASSES)
        for c, y in zip(clusters.split([2, 1, 2]), labels.split([2, 1, 2]), strict=True)
    ]
    assert torch.equal(whole, torch.stack(parts).sum(0))
