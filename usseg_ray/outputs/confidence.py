"""How sure a model is of every pixel: the probability of the cluster that it chose.

Eight bits, 255 for certainty: a step is 0.4 percentage points, finer than any such probability
means, and a float would take eight times the room. Images with a place on the earth get a GeoTIFF,
whose scale says the same to software that reads it; others a grey PNG.
"""

from typing import BinaryIO

import numpy as np

from usseg_ray.outputs.base import About, Format, Sink, Strip
from usseg_ray.outputs.geotiff import TiffFile
from usseg_ray.outputs.png import PngFile

LEVELS = 255


class ConfidenceSink(Sink):
    """A map of confidence."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        self._file = (
            PngFile(about.width, about.height, 8)
            if about.georeference is None
            else TiffFile(about, np.dtype(np.uint8), scale=1 / LEVELS)
        )

    def write(self, strip: Strip) -> None:
        """Takes the next rows."""
        self._file.write(np.rint(strip.confidence * LEVELS).astype(np.uint8))

    def finish(self) -> BinaryIO:
        """Returns the file."""
        return self._file.finish()

    def close(self) -> None:
        """Gives it up."""
        self._file.close()


def _suffix(about: About) -> str:
    return ".png" if about.georeference is None else ".tif"


FORMAT = Format(ConfidenceSink, "confidence", _suffix, bytes_per_pixel=0.7)
