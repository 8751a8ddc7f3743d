"""TIFF files read by window through GDAL, whatever their bands and numbers (extra `geo`)."""

import importlib.util
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Num, UInt8

from usseg_ray.data.containers import ORIENTATION_TAG, UndecodableError, tiff_tags
from usseg_ray.data.decode import guarded

CACHE_BYTES = 2**27
"""Of GDAL, which otherwise takes a twentieth of the machine's memory."""


def has_rasters() -> bool:
    """Says whether the extra is there."""
    return importlib.util.find_spec("rasterio") is not None


class Raster:
    """A file that is read by window, as three bands of the numbers that it holds.

    Args:
        dataset: As rasterio opened it.
        bands: As `scaling.Sight`. Without them the first three count as red, green and blue, or
            the first is repeated where there are fewer.

    Attributes:
        height: Pixels.
        width: Pixels.
        deep: Whether its numbers are not bytes, nor places in a palette.

    Raises:
        UndecodableError: It has no such band.
    """

    def __init__(self, dataset: Any, bands: Sequence[str] = ()) -> None:  # noqa: ANN401
        self._dataset = dataset
        self.height, self.width = dataset.height, dataset.width
        usual = (1, 2, 3) if dataset.count >= 3 else (1, 1, 1)
        self._bands = [_band(dataset, band) for band in bands] if bands else list(usual)
        self._bands *= 3 // len(self._bands)
        self._white, self._top = _white_is_zero(dataset), _top(dataset)
        # GDAL makes a palette of numbers in which white is 0.
        self._palette = None if bands or self._white is not None else _palette(dataset)
        self.deep = self._palette is None and any(
            dataset.dtypes[band - 1] != "uint8" for band in self._bands
        )

    def read(self, top: int, left: int, height: int, width: int) -> Num[np.ndarray, "h w 3"]:
        """Reads a window: colours of a palette, 64-bit numbers as float32, fewer than 8 bits as 8.

        White is the largest number.
        """
        found = self._read(window=_window(top, left, height, width))
        if self._palette is not None:
            return np.asarray(self._palette[found[0]])
        if self._white is not None:
            found = self._white - found
        if self._top is not None:
            found = (found.astype(np.uint16) * 255 // self._top).astype(np.uint8)
        return np.moveaxis(found, 0, -1)

    def numbers(self, side: int) -> list[np.ndarray]:
        """Reads the numbers of each band, without nodata, in a copy of at most `side` pixels."""
        scale = max(1, max(self.height, self.width) / side)
        shape = (3, round(self.height / scale) or 1, round(self.width / scale) or 1)
        small = self._read(out_shape=shape, masked=True)
        return [
            np.ma.compressed(band if self._white is None else self._white - band) for band in small
        ]

    def absent(self, top: int, height: int) -> Bool[np.ndarray, "h W"] | None:
        """Says where rows have no data, by the file's own mask; `None` if it has none."""
        if self._dataset.nodata is None and not self._has_mask():
            return None
        with guarded():
            seen = self._dataset.dataset_mask(window=_window(top, 0, height, self.width))
        return np.asarray(seen == 0)

    def _has_mask(self) -> bool:
        from rasterio.enums import MaskFlags  # noqa: PLC0415

        return any(MaskFlags.all_valid not in flags for flags in self._dataset.mask_flag_enums)

    def _read(self, **options: Any) -> Any:  # noqa: ANN401 (of an extra)
        wide = any(self._dataset.dtypes[band - 1] in _WIDE for band in self._bands)
        with guarded():
            return self._dataset.read(self._bands, out_dtype="float32" if wide else None, **options)


_WIDE = ("float64", "int64", "uint64")


def _band(dataset: Any, name: str) -> int:  # noqa: ANN401 (of an extra)
    """Finds a band by its number from 1, or by what the file calls it."""
    names = [(description or "").casefold() for description in dataset.descriptions]
    if name.casefold() in names:
        return names.index(name.casefold()) + 1
    if name.isdigit() and 1 <= int(name) <= dataset.count:
        return int(name)
    called = ", ".join(filter(None, dataset.descriptions))
    known = f"called {called}" if called else "without names"
    raise UndecodableError(f"no band {name!r}: it has {dataset.count}, {known}")


def _white_is_zero(dataset: Any) -> int | None:  # noqa: ANN401 (of an extra)
    """Says the largest number of a file in which that is black."""
    said = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    kind = np.dtype(dataset.dtypes[0])
    if not said or kind.kind != "u":
        return None
    bits = _bits(dataset)
    return 2**bits - 1 if bits else int(np.iinfo(kind).max)


def _top(dataset: Any) -> int | None:  # noqa: ANN401 (of an extra)
    """Says the largest number of a file that fills only a part of its bytes."""
    bits = _bits(dataset)
    return 2**bits - 1 if 0 < bits < 8 else None


def _bits(dataset: Any) -> int:  # noqa: ANN401 (of an extra)
    """Says how many bits of its numbers a file uses; 0 where these are all."""
    return int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0))


def _palette(dataset: Any) -> UInt8[np.ndarray, "n 3"] | None:  # noqa: ANN401 (of an extra)
    """Reads the colours of a file whose numbers are places in a palette."""
    from rasterio.enums import ColorInterp  # noqa: PLC0415

    if dataset.colorinterp[0] is not ColorInterp.palette:
        return None
    colours = np.zeros((np.iinfo(dataset.dtypes[0]).max + 1, 3), np.uint8)
    for place, colour in dataset.colormap(1).items():
        colours[place] = colour[:3]
    return colours


def is_turned(stream: BinaryIO) -> bool:
    """Says whether a TIFF file's picture is to be turned or flipped, which GDAL does not do.

    Raises:
        UndecodableError: It is none.
    """
    with guarded():
        return bool(tiff_tags(stream).get(ORIENTATION_TAG, 1) != 1)


def _window(top: int, left: int, height: int, width: int) -> Any:  # noqa: ANN401 (of an extra)
    from rasterio.windows import Window  # noqa: PLC0415

    return Window(left, top, width, height)


def raster_settings() -> Any:  # noqa: ANN401 (of an extra)
    """Makes what files are read under, with little of GDAL's cache: a context manager."""
    import rasterio  # noqa: PLC0415 (of the extra `geo`)

    return rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")


def open_raster(file: Path | bytes, driver: str = "GTiff") -> Any:  # noqa: ANN401 (of an extra)
    """Opens a raster file, which is closed as any file is.

    Args:
        file: Its path, or its bytes.
        driver: Of GDAL, that may read it.

    Raises:
        UndecodableError: It is none that it reads.
    """
    import rasterio  # noqa: PLC0415 (of the extra `geo`)
    from rasterio.errors import NotGeoreferencedWarning  # noqa: PLC0415

    with guarded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        place = file if isinstance(file, Path) else io.BytesIO(file)
        return rasterio.open(place, driver=driver)


@contextmanager
def opened_raster(file: Path | bytes, driver: str = "GTiff") -> Iterator[Any]:
    """Opens a raster file under `raster_settings`; see `open_raster`."""
    with raster_settings(), open_raster(file, driver) as dataset:
        yield dataset
