"""Shapes as COCO writes them -> label maps: polygons, and run lengths, plain or packed in letters.

A pixel belongs to a polygon if its centre lies inside. Smaller shapes lie over larger ones, and of
two that are equally large the later: an object before another is mostly the smaller one.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import MAX_PIXELS, guarded

_FIRST_LETTER, _BITS, _MORE, _SIGN = 48, 0x1F, 0x20, 0x10


@dataclass(frozen=True)
class Shape:
    """The pixels of a class, or some of them.

    Attributes:
        index: Of the class.
        segmentation: As JSON holds it: polygons `[[x, y, x, y, ...], ...]` or run lengths
            `{"size": [height, width], "counts": ...}`. Checked when it is drawn.
    """

    index: int
    segmentation: Any


@dataclass(frozen=True)
class Drawing:
    """An image's label, not drawn yet.

    Attributes:
        height: Of the image, pixels.
        width: Of the image, pixels.
        rest: Class index of pixels in no shape.
        shapes: In the order of the file.
    """

    height: int
    width: int
    rest: int
    shapes: tuple[Shape, ...]


def draw_labels(drawing: Drawing) -> Int32[np.ndarray, "H W"]:
    """Draws a label map.

    Returns:
        (H, W) int32 class indices.

    Raises:
        UndecodableError: A shape is none, or the picture is too large.
    """
    height, width = drawing.height, drawing.width
    if height * width > MAX_PIXELS:
        raise UndecodableError(f"{width}x{height} has more than {MAX_PIXELS} pixels")
    numbers = np.full((height, width), drawing.rest, np.int32)
    smallest = np.full((height, width), height * width + 1)
    for shape in drawing.shapes:
        with guarded("an annotation cannot be read: "):
            mask = mask_of(shape.segmentation, height, width)
        over = mask & (mask.sum() <= smallest)
        numbers[over], smallest[over] = shape.index, mask.sum()
    return numbers


def mask_of(
    segmentation: Any,  # noqa: ANN401 (whatever JSON holds)
    height: int,
    width: int,
) -> Bool[np.ndarray, "{height} {width}"]:
    """Says which pixels a shape covers.

    Args:
        segmentation: See `Shape`.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        (H, W) bool; of several polygons, what any of them covers.

    Raises:
        UndecodableError: It is no shape, or one of another size.
    """
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != [height, width]:
            raise UndecodableError(
                f"run lengths of size {segmentation.get('size')} in an image of [{height}, {width}]"
            )
        return _from_runs(segmentation.get("counts"), height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise UndecodableError("an annotation has neither polygons nor run lengths")
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        mask |= _inside(polygon, height, width)
    return mask


def _inside(polygon: Any, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:  # noqa: ANN401
    if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
        count = len(polygon) if isinstance(polygon, list) else "no"
        raise UndecodableError(f"a polygon must be 3 or more pairs x, y; it has {count} numbers")
    points = [float(value) for value in polygon]
    if not all(map(math.isfinite, points)):
        raise UndecodableError("a polygon has a coordinate that is no number")
    corners = list(zip(points[::2], points[1::2], strict=True))
    # A row's pixels change sides at each edge that crosses the line through their centres.
    turns = np.zeros((height, width + 1), bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        first, end = (math.ceil(min(max(y, 0), height) - 0.5) for y in (min(y0, y1), max(y0, y1)))
        rows = np.arange(first, end)
        if rows.size:
            across = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            turns[rows, np.ceil(across.clip(0, width) - 0.5).astype(int)] ^= True
    return np.logical_xor.accumulate(turns[:, :width], axis=1)


def _from_runs(counts: Any, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:  # noqa: ANN401
    """Runs go down the columns, and the first is of pixels outside."""
    if isinstance(counts, str):
        counts = unpack_runs(counts)
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind != "i" or runs.min() < 0:
        raise UndecodableError("run lengths must be a list of whole numbers")
    if runs.sum() != height * width:
        raise UndecodableError(
            f"run lengths cover {runs.sum()} pixels of an image of {height * width}"
        )
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def unpack_runs(text: str) -> list[int]:
    """Reads run lengths that COCO's tools packed in letters (`rleToString` in their maskApi.c).

    A letter less 48 holds five bits, lowest first, and a sixth that says that more follow; the
    last one's fifth bit is the sign. From the fourth on, a number is what a run differs by from
    the one before the last.

    Raises:
        UndecodableError: Other letters are in it, or it ends inside a number.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - _FIRST_LETTER
        if not 0 <= bits < 2 * _MORE or shift > 60:
            raise UndecodableError(f"run lengths are packed with {letter!r} in them")
        value |= (bits & _BITS) << shift
        shift += 5
        if not bits & _MORE:
            value -= (bits & _SIGN > 0) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise UndecodableError("run lengths end inside a number")
    return runs
