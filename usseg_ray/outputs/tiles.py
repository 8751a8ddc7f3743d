"""Images of any size through overlapping windows, finished from the top down.

Every tile is shown as an image is, with the side that the model learnt at, and gives scores at the
resolution of its tokens. Those of a few rows of tiles are all that is kept: a pixel's scores are
the mean, weighted by Hann windows, of what its tiles say, and since both the windows and bilinear
upsampling go by rows and by columns, blocks of any size are made of them by two matrix products.

The weights of a pixel add up to one and go to nothing at a tile's edge, so nothing jumps there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.data.transforms import frame_image
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs.base import Strip

ROWS = 256
"""Of a strip, pixels: those of a GeoTIFF's blocks."""

_BLOCK_NUMBERS = 2**23
"""Scores that are upsampled at a time: 32 MiB."""

_TILES_AT_A_TIME = 8

MAX_OVERLAP = 0.75


class Pixels(Protocol):
    """An image whose pixels are read as they are needed.

    Attributes:
        height: Pixels.
        width: Pixels.
    """

    height: int
    width: int

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a window, RGB."""

    def absent(self, top: int, height: int) -> Bool[np.ndarray, "h W"] | None:
        """Says which pixels of some rows hold nothing; `None` where all hold something."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut, as `--tile` and `--overlap` say.

    Attributes:
        side: Of a tile, pixels of the image.
        overlap: Share of a tile that its neighbour has too.

    Raises:
        UserError: The overlap is none, or so large that there is no end of tiles.
    """

    side: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.overlap <= MAX_OVERLAP:
            raise UserError(f"--overlap {self.overlap:g} is not above 0 and up to {MAX_OVERLAP}.")
        if self.side < 32:
            raise UserError(f"--tile {self.side} is too small to see anything in: 32 at least.")


@dataclass(frozen=True)
class EdgeTiles:
    """Tiles along one edge of an image.

    Attributes:
        length: Of the edge, pixels.
        side: Of a tile, pixels.
        starts: The first pixel of each.
    """

    length: int
    side: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, length: int, side: int, overlap: float) -> "EdgeTiles":
        """Places tiles evenly so that they cover the edge and neighbours share enough."""
        count = 1 + math.ceil((length - side) / (side * (1 - overlap)))
        starts = [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]
        return cls(length, side, tuple(starts))

    def seen_by(self, first: int, end: int) -> list[int]:
        """Lists the tiles that see a pixel from `first` to before `end`."""
        return [
            index
            for index, start in enumerate(self.starts)
            if start < end and start + self.side > first
        ]

    def matrix(self, index: int, first: int, end: int, cells: int) -> Float[np.ndarray, "p cells"]:
        """Makes what takes a tile's scores to pixels: upsampling, and the weight that it has there.

        Args:
            index: Of the tile.
            first: Pixel of the image.
            end: Pixel of the image, exclusive.
            cells: Scores of the tile along this edge.

        Returns:
            (end - first, cells) float32, rows of nothing where the tile sees no pixel.
        """
        pixels = np.arange(first, end)
        weights = self._hann(index, pixels)
        total = sum(self._hann(other, pixels) for other in self.seen_by(first, end))
        upsampled = _bilinear(pixels - self.starts[index], self.side, cells)
        return np.asarray(upsampled * (weights / total)[:, None])

    def _hann(self, index: int, pixels: np.ndarray) -> np.ndarray:
        inside = (pixels - self.starts[index] + 0.5) / self.side
        return np.where((inside > 0) & (inside < 1), np.sin(np.pi * inside) ** 2, 0.0)


def _bilinear(pixels: np.ndarray, side: int, cells: int) -> Float[np.ndarray, "p cells"]:
    """Upsamples as `interpolate` does without aligned corners, as a matrix."""
    at = np.clip((pixels + 0.5) * cells / side - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(np.int64), max(cells - 2, 0))
    found = np.zeros((len(pixels), cells))
    rows = np.arange(len(pixels))
    found[rows, low] = 1 - (at - low)
    found[rows, np.minimum(low + 1, cells - 1)] += at - low
    return found


def segment_tiles(segmenter: Segmenter, pixels: Pixels, tiling: Tiling) -> Iterator[Strip]:
    """Segments an image of any size.

    Args:
        segmenter: The model.
        pixels: The image.
        tiling: How it is cut; an image with an edge shorter than a tile is cut into tiles of that.

    Yields:
        Its strips, from the top down.
    """
    side = min(tiling.side, pixels.height, pixels.width)
    rows, columns = (
        EdgeTiles.of(length, side, tiling.overlap) for length in (pixels.height, pixels.width)
    )
    kept: dict[int, list[Tensor]] = {}
    for first, end in _strips(pixels.height):
        seen = rows.seen_by(first, end)
        kept = {
            row: kept[row] if row in kept else _row_of_tiles(segmenter, pixels, rows, columns, row)
            for row in seen
        }
        chosen, confidence = _blended(kept, rows, columns, first, end)
        yield _strip(segmenter, pixels, first, chosen, confidence)


def _strips(height: int) -> Iterator[tuple[int, int]]:
    return pairwise([*range(0, height, ROWS), height])


@torch.no_grad()
def _row_of_tiles(
    segmenter: Segmenter, pixels: Pixels, rows: EdgeTiles, columns: EdgeTiles, row: int
) -> list[Tensor]:
    """Scores a row of tiles: logarithms of probabilities, (K, h, w) each, merged ones joined.

    They are scores less a number for each place, which the softmax does not see.
    """
    learnt = segmenter.description.preprocessing
    frame = Frame(learnt.size, "whole", learnt.filter)
    found: list[Tensor] = []
    for index in range(0, len(columns.starts), _TILES_AT_A_TIME):
        tiles = [
            pixels.read(rows.starts[row], start, rows.side, rows.side)
            for start in columns.starts[index : index + _TILES_AT_A_TIME]
        ]
        seen = np.stack([frame_image(tile, frame) for tile in tiles])
        probabilities = segmenter.probabilities(np.moveaxis(seen, 1, -1))
        logs = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        found += map(segmenter.join, logs)
    return found


def _blended(
    kept: dict[int, list[Tensor]], rows: EdgeTiles, columns: EdgeTiles, first: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the clusters of some rows of pixels, and their probabilities."""
    known = next(iter(kept.values()))[0]
    clusters, cells, device = *known.shape[:2], known.device
    width = max(1, _BLOCK_NUMBERS // (clusters * (end - first)))
    down = {row: rows.matrix(row, first, end, cells) for row in kept}
    chosen = np.empty((end - first, columns.length), np.int64)
    confidence = np.empty(chosen.shape, np.float32)
    for left in range(0, columns.length, width):
        right = min(left + width, columns.length)
        scores = torch.zeros(clusters, end - first, right - left, device=device)
        for column in columns.seen_by(left, right):
            across = columns.matrix(column, left, right, cells)
            for row in kept:
                scores += _on(kept[row][column], down[row], across)
        best, found = scores.max(0)
        chosen[:, left:right] = found.cpu().numpy()
        certain = 1 / (scores - best).exp_().sum(0)
        confidence[:, left:right] = certain.cpu().numpy()
    return chosen, confidence


def _on(
    grid: Float[Tensor, "K h w"], down: np.ndarray, across: np.ndarray
) -> Float[Tensor, "K r c"]:
    left, right = (torch.from_numpy(matrix).to(grid) for matrix in (down, across))
    return left @ grid @ right.T


def _strip(
    segmenter: Segmenter, pixels: Pixels, first: int, chosen: np.ndarray, confidence: np.ndarray
) -> Strip:
    names, (height, width) = segmenter.names, chosen.shape
    mask = narrow(segmenter.outputs(chosen), names.ignored)
    leave_out(pixels.absent(first, height), mask, confidence, names.ignored)
    return Strip(mask, confidence, pixels.read(first, 0, height, width))


def leave_out(
    absent: Bool[np.ndarray, "h W"] | None, mask: np.ndarray, confidence: np.ndarray, ignored: int
) -> None:
    """Marks the pixels of a mask that hold nothing, in place."""
    if absent is not None:
        mask[absent], confidence[absent] = ignored, 0


def narrow(mask: np.ndarray, ignored: int) -> np.ndarray:
    """Makes outputs numbers of one byte, or of two where that does not hold `ignored`."""
    return mask.astype(np.uint8 if ignored < 2**8 else np.uint16)
