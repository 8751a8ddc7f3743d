"""Image files as `tiles` reads them: decoded as a whole, or by window where rasterio can.

Only TIFF files are read by window. Numbers of more than 8 bits are scaled to 8 by what the model
says, else by two percentiles of each band of the file itself, looked up in a small copy of it.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from usseg_ray.data.numbers import decode_seen, seen
from usseg_ray.data.raster import Raster
from usseg_ray.data.scaling import AS_THEY_ARE, Scaling, Sight
from usseg_ray.outputs.base import Georeference

RASTER_SUFFIXES = frozenset({".tif", ".tiff"})

_LOOKED_AT = 1024
"""Side of the copy that they are looked up in, pixels."""


class DecodedPixels:
    """An image that lies in memory.

    Args:
        image: (H, W, 3) uint8, RGB.
        georeference: Where it lies.
        void: (H, W), which pixels hold nothing; none of them if unset.
    """

    def __init__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        georeference: Georeference | None = None,
        void: Bool[np.ndarray, "H W"] | None = None,
    ) -> None:
        self.image, self.georeference, self.void = image, georeference, void
        self.height, self.width = image.shape[:2]

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Cuts a window."""
        return np.ascontiguousarray(self.image[top : top + height, left : left + width])

    def absent(self, top: int, height: int) -> Bool[np.ndarray, "h W"] | None:
        """Says where rows hold nothing."""
        return None if self.void is None else self.void[top : top + height]


class RasterPixels:
    """A raster file that is read by window.

    Args:
        dataset: As rasterio opened it.
        sight: Of the model.

    Raises:
        UndecodableError: It has not the model's bands.
    """

    def __init__(self, dataset: Any, sight: Sight = AS_THEY_ARE) -> None:  # noqa: ANN401 (of an extra)
        self._raster = raster = Raster(dataset, sight.bands)
        self.height, self.width = raster.height, raster.width
        self.georeference = georeference_of(dataset)
        if raster.deep and sight.scaling is None:
            sight = Sight(bands=sight.bands, scaling=Scaling.of(raster.numbers(_LOOKED_AT)))
        self._sight = sight

    def read(self, top: int, left: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a window and scales it."""
        numbers = self._raster.read(top, left, height, width)
        return np.ascontiguousarray(seen(numbers, self._sight))

    def absent(self, top: int, height: int) -> Bool[np.ndarray, "h W"] | None:
        """Says where the file has no data, by its own mask."""
        return self._raster.absent(top, height)


def georeference_of(dataset: Any) -> Georeference | None:  # noqa: ANN401 (of an extra)
    """Reads where a raster lies; `None` where it does not say."""
    if dataset.crs is None and dataset.transform.is_identity:
        return None
    wkt = dataset.crs.to_wkt() if dataset.crs else ""
    return Georeference(wkt, tuple(dataset.transform)[:6])


def decoded(
    data: bytes, sight: Sight = AS_THEY_ARE, georeference: Georeference | None = None
) -> DecodedPixels:
    """Decodes a file as a whole.

    Args:
        data: The file.
        sight: Of the model.
        georeference: Where it lies.

    Raises:
        UndecodableError: As for `data.numbers.decode_seen`.
    """
    return DecodedPixels(decode_seen(data, sight), georeference)
