"""Which colour every class and cluster has, in all pictures of all trials and sweeps.

It stands below `mosaic` and `charts`. A data set's own palette is used as it is; without one,
colours are chosen that stay apart for colour-blind readers too. A cluster that the matching left
without a class is hatched grey, so it cannot pass for one.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usseg_ray.core.errors import UserError

RGB = NDArray[np.uint8]
Ids = NDArray[np.integer[Any]]

# The eight colours of M. Okabe and K. Ito (2008) that stay apart for colour-blind readers, with a
# brown in place of black, which is where label maps have nothing; `_extended` goes on from there.
_BASE = "0072b2 e69f00 009e73 cc79a7 d55e00 56b4e9 f0e442 743c1e"
_NEUTRALS = ((0, 0, 0), (96, 96, 96), (160, 160, 160), (255, 255, 255))
# What eyes see, in linear RGB: all of it, or without green or red cones, the two kinds of colour
# blindness that are not rare (deuteranopia, protanopia; G. M. Machado et al., IEEE TVCG 15(6),
# 2009, severity 1.0).
_EYES = (
    np.eye(3),
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
)
# Linear RGB to OKLab: B. Ottosson, "A perceptual color space for image processing", 2020.
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def colour_for(classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None) -> RGB:
    """Gives every class its colour.

    Args:
        classes: Names of the classes, in order.
        palette: The data set's own RGB colours, one a class; without it colours are chosen that
            differ for colour-blind readers too, and more classes never change the first ones.

    Returns:
        (C, 3) uint8, RGB.

    Raises:
        UserError: The palette does not have one RGB colour for every class.
    """
    if palette is None:
        return np.array(_extended(len(classes)), dtype=np.uint8).reshape(-1, 3)
    colours = np.array([list(colour) for colour in palette if len(colour) == 3])
    if len(palette) != len(classes) or len(colours) != len(classes):
        raise UserError(
            f"The palette has {len(colours)} RGB colours for {len(classes)} classes.\n"
            "Give `palette` in dataset.json one [red, green, blue] a class, or leave it out."
        )
    return colours.astype(np.uint8).reshape(-1, 3)


def matched_ids(class_of: Ids, num_classes: int) -> NDArray[np.int64]:
    """Renames clusters for drawing: by their class, or past the classes where they have none.

    Args:
        class_of: (K,) class of every cluster, -1 without one.
        num_classes: C.

    Returns:
        (K,) class, or C, C + 1, ... for the clusters without one, in their order.
    """
    spare = num_classes - 1 + np.cumsum(class_of < 0)
    return np.where(class_of < 0, spare, class_of).astype(np.int64)


def paint(ids: Ids, palette: RGB, ignore_index: int | None = None) -> RGB:
    """Colours a label map: classes plain, clusters without a class hatched, nothing as a grid.

    Args:
        ids: (H, W) class, or from C on a cluster without one, as `matched_ids` numbers them.
        palette: (C, 3) uint8, from `colour_for`.
        ignore_index: Value of `ids` where there is no ground truth.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    painted = palette.take(ids, axis=0, mode="clip")
    y, x = np.nonzero(ids >= len(palette))
    cluster = ids[y, x] - len(palette)
    stripe = np.array([4, 2, 8, 6])[cluster // 12 % 4]
    phase = np.choose(cluster % 4, [x + y, x - y, x, y]) // stripe % 2
    dark, light = np.array([70, 110, 160]), np.array([160, 215, 240])
    tone = cluster // 4 % 3
    painted[y, x] = np.where(phase == 0, dark[tone], light[tone])[:, None]
    if ignore_index is not None:
        y, x = np.nonzero(ids == ignore_index)
        painted[y, x] = np.where((x // 4 + y // 4) % 2 == 0, 255, 226)[:, None]
    return painted


@cache
def _extended(count: int) -> tuple[tuple[int, ...], ...]:
    """Adds to the base colours, one at a time, the one farthest from all before it."""
    levels = np.linspace(0, 255, 13).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(grid, _EYES[0])
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(lightness > 0.4) & (lightness < 0.9) & (chroma > 0.07) & (chroma < 0.19)]
    chosen = [tuple(bytes.fromhex(colour)) for colour in _BASE.split()]
    nearest = np.min([_distance(grid, np.array(c)) for c in (*_NEUTRALS, *chosen)], axis=0)
    while len(chosen) < count:
        best = grid[int(nearest.argmax())]
        chosen.append(tuple(int(value) for value in best))
        nearest = np.minimum(nearest, _distance(grid, best))
    return tuple(chosen[:count])


def _distance(colours: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """How far colours are from one, to the eye that tells them apart worst.

    With two kinds of cones there is about half the room, so distances count twice: else the few
    colours that such eyes tell apart best would crowd together for everybody.
    """
    seen, *blind = (
        np.linalg.norm(_oklab(colours, eye) - _oklab(other, eye), axis=-1) for eye in _EYES
    )
    return np.asarray(np.minimum(seen, 2 * np.minimum(*blind)))


def _oklab(rgb: NDArray[Any], eye: NDArray[np.float64]) -> NDArray[np.float64]:
    """Takes 8-bit sRGB, as an eye sees it, to OKLab, where equal distances look equal."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ eye.T, 0, 1)
    return np.asarray(np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_OKLAB.T)
