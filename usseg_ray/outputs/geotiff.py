"""Label maps as GeoTIFFs: tiled, deflated, with the image's place and the names' colours."""

import tempfile
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from usseg_ray.data.raster import CACHE_BYTES
from usseg_ray.outputs.base import About, Format, Sink, Strip

BLOCK = 256
"""Side of a tile in the file, pixels; strips of as many rows fill whole ones."""


class TiffFile:
    """A GeoTIFF of one band that takes rows.

    Args:
        about: The image.
        dtype: Of its numbers.
        colours: RGB by value.
        nodata: The value that means none.
        scale: A number times this is what it means.
    """

    def __init__(
        self,
        about: About,
        dtype: np.dtype[np.unsignedinteger],
        *,
        colours: dict[int, tuple[int, int, int]] | None = None,
        nodata: int | None = None,
        scale: float | None = None,
    ) -> None:
        import rasterio  # noqa: PLC0415 (of the extra `geo`)
        from rasterio.errors import NotGeoreferencedWarning  # noqa: PLC0415

        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "written.tif")
        self._env = rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)
        place = about.georeference
        with self._env, warnings.catch_warnings():
            # An image without a place is meant to have none.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._file = rasterio.open(
                self._path,
                "w",
                driver="GTiff",
                height=about.height,
                width=about.width,
                count=1,
                dtype=dtype,
                crs=place.crs or None if place else None,
                transform=rasterio.Affine(*place.transform) if place else None,
                nodata=nodata,
                compress="deflate",
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                bigtiff="IF_SAFER",
            )
            if colours is not None:
                self._file.write_colormap(1, colours)
            if scale is not None:
                self._file.scales = (scale,)
        self._row = 0

    def write(self, rows: np.ndarray) -> None:
        """Takes the next rows."""
        from rasterio.windows import Window  # noqa: PLC0415

        height, width = rows.shape
        with self._env:
            self._file.write(rows, 1, window=Window(0, self._row, width, height))
        self._row += height

    def finish(self) -> BinaryIO:
        """Returns the file."""
        with self._env:
            self._file.close()
        return self._path.open("rb")

    def close(self) -> None:
        """Gives it up."""
        with self._env:
            self._file.close()
        self._folder.cleanup()


class GeotiffSink(Sink):
    """A label map with its place."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        names = about.names
        small = names.ignored < 2**8
        table = {value: tuple(map(int, names.palette[value])) for value in names.outputs}
        self._file = TiffFile(
            about,
            np.dtype(np.uint8 if small else np.uint16),
            colours=table if small else None,  # type: ignore[arg-type]
            nodata=names.ignored,
        )

    def write(self, strip: Strip) -> None:
        """Takes the next rows."""
        self._file.write(strip.mask)

    def finish(self) -> BinaryIO:
        """Returns the file."""
        return self._file.finish()

    def close(self) -> None:
        """Gives it up."""
        self._file.close()


FORMAT = Format(
    GeotiffSink,
    "geotiff",
    lambda _: ".tif",
    bytes_per_pixel=0.12,
    modules=("rasterio",),
    extra="geo",
)
