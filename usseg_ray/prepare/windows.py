"""Images beyond the limit of decoding become tiles, where their files can be read by window.

A tiled or stripped TIFF is such a file. Its tiles lie edge to edge, so that every pixel is in one
of them, and its label is cut at the same places.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Num
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ROWSPERSTRIP, TILEWIDTH

from usseg_ray.core.errors import UserError
from usseg_ray.data.containers import ORIENTATION_TAG, UndecodableError, tiff_tags
from usseg_ray.data.decode import MAX_PIXELS, guarded
from usseg_ray.data.numbers import check_bands
from usseg_ray.data.raster import (
    Raster,
    has_rasters,
    is_turned,
    open_raster,
    raster_settings,
)
from usseg_ray.prepare.conversion import png_bytes
from usseg_ray.prepare.entries import Entry, ImageSet, Window

TILE = 1024
"""Longest side of a tile, pixels: what `predict --tile 1024` shows a model at a time."""

_SUFFIXES = (".tif", ".tiff")


def cut_large(images: ImageSet) -> ImageSet:
    """Puts tiles in the place of the images that are too large to be decoded.

    Args:
        images: What was found. Images that cannot be read by window, or lie turned, stay.

    Returns:
        The same, with a note of what was cut.

    Raises:
        UserError: A tile would be called as another image is.
    """
    if not has_rasters():
        return images
    parts = [(entry, _tiles(entry)) for entry in images.entries]
    count = sum(bool(tiles) for _, tiles in parts)
    if not count:
        return images
    entries = [one for entry, tiles in parts for one in (tiles or [entry])]
    _refuse_twins(entries)
    made = len(entries) - len(parts) + count
    what = "1 image" if count == 1 else f"{count} images"
    note = (
        f"{what} above {MAX_PIXELS // 2**20} megapixels cut into {made} tiles of at most "
        f"{TILE}x{TILE} (names end in _ROW_COLUMN), labels alike."
    )
    return replace(
        images,
        entries=tuple(sorted(entries, key=lambda entry: (entry.split, entry.id))),
        notes=(*images.notes, note),
    )


def _refuse_twins(entries: Iterable[Entry]) -> None:
    seen = set[tuple[str, str]]()
    for entry in entries:
        if (entry.split, entry.id) in seen:
            raise UserError(
                f"{entry.image}: a tile of a large image and another image are both called "
                f"{entry.id!r}. Rename one."
            )
        seen.add((entry.split, entry.id))


def _tiles(entry: Entry) -> list[Entry]:
    """Lists the tiles of an image; none of one that is decoded whole, or cannot be cut."""
    size = _large(entry)
    if size is None:
        return []
    rows, columns = (_edges(length) for length in size)
    digits = max(2, len(str(max(len(rows), len(columns)) - 1)))
    return [
        replace(
            entry,
            id=f"{entry.id}_{row:0{digits}d}_{column:0{digits}d}",
            cut=Window(top, left, bottom - top, right - left, size),
        )
        for row, (top, bottom) in enumerate(rows)
        for column, (left, right) in enumerate(columns)
    ]


def _large(entry: Entry) -> tuple[int, int] | None:
    """Says the size of an image that is to be cut."""
    if entry.cut is not None or not entry.image.lower().endswith(_SUFFIXES):
        return None
    try:
        with Path(entry.image).open("rb") as stream, guarded():
            tags = tiff_tags(stream)
            height, width = int(tags[IMAGELENGTH]), int(tags[IMAGEWIDTH])
    except (UndecodableError, OSError):
        return None
    strip = 0 if TILEWIDTH in tags else int(tags.get(ROWSPERSTRIP, height))
    upright = tags.get(ORIENTATION_TAG, 1) == 1
    by_window = min(strip, height) * width <= MAX_PIXELS
    return (height, width) if upright and by_window and height * width > MAX_PIXELS else None


def _edges(length: int) -> list[tuple[int, int]]:
    """Divides an edge evenly."""
    count = -(-length // TILE)
    return list(pairwise(round(index * length / count) for index in range(count + 1)))


class Windows:
    """Reads windows of large files, and holds the last images and labels open: they come in a row.

    Args:
        bands: As `data.scaling.Sight`, for images.
    """

    def __init__(self, bands: tuple[str, ...] = ()) -> None:
        self._bands = bands
        self._settings, self._within = ExitStack(), False
        self._open: dict[str, tuple[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        for _, dataset in self._open.values():
            dataset.close()
        self._settings.close()

    def image(self, path: str, window: Window) -> Num[np.ndarray, "h w 3"]:
        """Reads the numbers of a part of an image.

        Raises:
            UndecodableError: It cannot be read, or has not those bands.
        """
        if self._open.get("image", ("",))[0] != path:
            with Path(path).open("rb") as stream, guarded():
                check_bands(tiff_tags(stream), self._bands)
        raster = Raster(self._dataset("image", path), self._bands)
        return raster.read(window.top, window.left, window.height, window.width)

    def absent(self, path: str, window: Window | None = None) -> Bool[np.ndarray, "h w"] | None:
        """Says which pixels of an image, or of a part of it, hold nothing by the file's own mask.

        Returns:
            `None` where it has none, where it lies turned, and of files that no window is read of.

        Raises:
            UndecodableError: It cannot be read.
        """
        if not (has_rasters() and path.lower().endswith(_SUFFIXES)):
            return None
        with Path(path).open("rb") as stream:
            if is_turned(stream):
                return None
        raster = Raster(self._dataset("image", path), self._bands)
        if window is None:
            return raster.absent(0, raster.height)
        found = raster.absent(window.top, window.height)
        return None if found is None else found[:, window.left : window.left + window.width]

    def label(self, path: str, window: Window) -> bytes:
        """Reads a part of a label as a PNG file.

        Raises:
            UndecodableError: It cannot be read, or has another size than its image.
        """
        from rasterio.windows import Window as Part  # noqa: PLC0415 (of the extra `geo`)

        dataset = self._dataset("label", path)
        height, width = window.whole
        if (dataset.height, dataset.width) != window.whole:
            raise UndecodableError(
                f"the label is {dataset.width}x{dataset.height}, its image {width}x{height}"
            )
        with guarded():
            found = dataset.read(window=Part(window.left, window.top, window.width, window.height))
            return png_bytes(found[0] if len(found) < 3 else np.moveaxis(found[:3], 0, -1))

    def _dataset(self, kind: str, path: str) -> Any:  # noqa: ANN401 (of an extra)
        held, dataset = self._open.pop(kind, ("", None))
        if held != path:
            if dataset is not None:
                dataset.close()
            if not self._within:
                self._within = True
                self._settings.enter_context(raster_settings())
            dataset = open_raster(Path(path), "PNG" if kind == "label" else "GTiff")
        self._open[kind] = path, dataset
        return dataset
