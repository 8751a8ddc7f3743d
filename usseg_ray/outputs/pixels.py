"""Image files as `tiles` reads them: decoded as a whole, or by window where rasterio can.

Only TIFF files are read by window. Numbers of more than 8 bits are scaled to 8 by what the model
says, else by two percentiles of each band of the file itself, looked up in a small copy of it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from usseg_ray.data.decode import decode_image, guarded
from usseg_ray.outputs.base import Georeference
from usseg_ray.outputs.geotiff import CACHE_BYTES

RASTER_SUFFIXES = frozenset({".tif", ".tiff"})

PERCENTILES = (2.0, 98.0)
"""Of a band's numbers: black and white."""

_LOOKED_AT = 1024
"""Side of the copy that they are looked up in, pixels."""


class DecodedPixels:
    """An image that lies in memory.

    Args:
        image: (H, W, 3) uint8, RGB.
        georeference: Where it lies.
    """

    def __init__(
        self, image: UInt8[np.ndarray, "H W 3"], georeference: Georeference | None = None
    ) -> None:
        self.image, self.georeference = image, georeference
        self.height, self.width = image.shape[:2]

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Cuts a window."""
        return np.ascontiguousarray(self.image[top : top + height, left : left + width])

    def absent(self, top: int, height: int) -> Bool[np.ndarray, "h W"] | None:  # noqa: ARG002
        """Says that all pixels hold something."""
        return None


class RasterPixels:
    """A raster file that is read by window.

    Args:
        dataset: As rasterio opened it.
    """

    def __init__(self, dataset: Any) -> None:  # noqa: ANN401 (of an extra)
        self._dataset = dataset
        self.height, self.width = dataset.height, dataset.width
        self.georeference = georeference_of(dataset)
        # One band is repeated, of two the first; more than three are red, green, blue and others.
        self._bands = [1, 2, 3] if dataset.count >= 3 else [1, 1, 1]
        self._ends = None if dataset.dtypes[0] == "uint8" else self._percentiles()

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a window and scales it."""
        with guarded():
            found = self._dataset.read(self._bands, window=_window(top, left, height, width))
        if self._ends is not None:
            low, high = self._ends
            with np.errstate(invalid="ignore"):
                found = np.nan_to_num((found - low) * (255 / (high - low))).clip(0, 255).round()
        return np.ascontiguousarray(np.moveaxis(found, 0, -1).astype(np.uint8))

    def absent(self, top: int, height: int) -> Bool[np.ndarray, "h W"] | None:
        """Says where the file has no data, by its own mask."""
        if self._dataset.nodata is None and not self._has_mask():
            return None
        with guarded():
            seen = self._dataset.dataset_mask(window=_window(top, 0, height, self.width))
        return np.asarray(seen == 0)

    def _has_mask(self) -> bool:
        from rasterio.enums import MaskFlags  # noqa: PLC0415

        return any(MaskFlags.all_valid not in flags for flags in self._dataset.mask_flag_enums)

    def _percentiles(self) -> tuple[np.ndarray, np.ndarray]:
        scale = max(1, max(self.height, self.width) / _LOOKED_AT)
        shape = (3, round(self.height / scale) or 1, round(self.width / scale) or 1)
        with guarded():
            small = self._dataset.read(self._bands, out_shape=shape, masked=True)
        bands = small.astype(np.float64).filled(np.nan).reshape(3, -1)
        bands[~np.isfinite(bands)] = np.nan
        known = [band[~np.isnan(band)] for band in bands]
        ends = np.array([np.percentile(b, PERCENTILES) if b.size else (0, 1) for b in known])
        low, high = ends[:, 0], np.maximum(ends[:, 1], ends[:, 0] + 1e-6)
        return low[:, None, None], high[:, None, None]


def _window(top: int, left: int, height: int, width: int) -> Any:  # noqa: ANN401 (of an extra)
    from rasterio.windows import Window  # noqa: PLC0415

    return Window(left, top, width, height)


def georeference_of(dataset: Any) -> Georeference | None:  # noqa: ANN401 (of an extra)
    """Reads where a raster lies; `None` where it does not say."""
    if dataset.crs is None and dataset.transform.is_identity:
        return None
    wkt = dataset.crs.to_wkt() if dataset.crs else ""
    return Georeference(wkt, tuple(dataset.transform)[:6])


@contextmanager
def opened_raster(path: Path) -> Iterator[Any]:
    """Opens a raster file, with little of GDAL's cache.

    Raises:
        UndecodableError: It is none that GDAL reads.
    """
    import rasterio  # noqa: PLC0415 (of the extra `geo`)
    from rasterio.errors import NotGeoreferencedWarning  # noqa: PLC0415

    settings = {"GDAL_CACHEMAX": CACHE_BYTES, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    with rasterio.Env(**settings):
        with guarded(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, driver="GTiff")
        with dataset:
            yield dataset


def decoded(data: bytes, georeference: Georeference | None = None) -> DecodedPixels:
    """Decodes a file as a whole.

    Raises:
        UndecodableError: As for `data.decode.decode_image`.
    """
    return DecodedPixels(decode_image(data), georeference)
