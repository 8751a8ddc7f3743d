"""Polygons and run lengths against maps drawn by hand."""

from typing import Any

import numpy as np
import pytest

from usseg_ray.data.containers import UndecodableError
from usseg_ray.prepare.drawing import Drawing, Shape, draw_labels, mask_of, unpack_runs

SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]


def pixels(mask: np.ndarray) -> str:
    return "/".join("".join("#" if inside else "." for inside in row) for row in mask)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([SQUARE], "..../.##./.##."),
        ([SQUARE[::-1]], "..../.##./.##."),
        ([[0, 0, 4, 0, 0, 3]], "###./##../#..."),  # centres left of x = 4 - 4y/3
        ([[-9, -9, 2, -9, 2, 99, -9, 99]], "##../##../##.."),  # beyond the image
        ([[0, 0, 1, 0, 1, 1, 0, 1], [3, 2, 4, 2, 4, 3, 3, 3]], "#.../..../...#"),
        ({"size": [3, 4], "counts": [1, 2, 7, 1, 1]}, "..../#..#/#..."),  # down the columns
        ({"size": [3, 4], "counts": [0, 12]}, "####/####/####"),
        ({"size": [3, 4], "counts": "127OJ"}, "..../#..#/#..."),
    ],
)
def test_mask_of(segmentation: Any, expected: str) -> None:
    assert pixels(mask_of(segmentation, 3, 4)) == expected


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("", []),
        ("0", [0]),
        ("?", [15]),
        ("`0", [16]),
        ("P1", [32]),
        ("123", [1, 2, 3]),
        ("1234", [1, 2, 3, 6]),  # 2 + 4
        ("19O1", [1, 9, -1, 10]),
    ],
)
def test_unpack_runs(text: str, runs: list[int]) -> None:
    assert unpack_runs(text) == runs


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 3, 1, 3]], "it has 5 numbers"),
        ([[1, 1, 3, 1]], "it has 4 numbers"),
        ([[1, 1, 3, 1, 3, float("nan")]], "no number"),
        ([7], "it has no numbers"),
        ([], "neither polygons nor run lengths"),
        (None, "neither polygons nor run lengths"),
        ({"size": [4, 3], "counts": [12]}, "run lengths of size"),
        ({"size": [3, 4], "counts": [5, 6]}, "cover 11 pixels of an image of 12"),
        ({"size": [3, 4], "counts": [14, -2]}, "whole numbers"),
        ({"size": [3, 4], "counts": ["a"]}, "whole numbers"),
        ({"size": [3, 4], "counts": []}, "run lengths"),
        ({"size": [3, 4]}, "run lengths"),
        ({"size": [3, 4], "counts": "P"}, "end inside a number"),
        ({"size": [3, 4], "counts": "\x7f"}, "packed with"),
    ],
)
def test_what_is_no_shape_is_named(segmentation: Any, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        draw_labels(Drawing(3, 4, 255, (Shape(0, segmentation),)))


def test_smaller_shapes_lie_over_larger_ones_and_later_over_equal() -> None:
    whole, left = [0, 0, 4, 0, 4, 3, 0, 3], [0, 0, 1, 0, 1, 3, 0, 3]
    shapes = (Shape(2, [left]), Shape(1, [whole]), Shape(3, [left]))
    assert draw_labels(Drawing(3, 4, 9, shapes)).tolist() == [[3, 1, 1, 1]] * 3
    assert draw_labels(Drawing(3, 4, 9, shapes[:1])).tolist() == [[2, 9, 9, 9]] * 3


def test_a_drawing_too_large_to_be_a_picture_is_refused_before_it_is_made() -> None:
    with pytest.raises(UndecodableError, match="pixels"):
        draw_labels(Drawing(10**6, 10**6, 255, ()))
