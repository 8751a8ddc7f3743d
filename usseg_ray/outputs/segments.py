"""Segments of every image by itself: principal masks of the backbone's tokens, as a label map.

They say what belongs together in an image and not what it is: number 3 of one image has nothing to
do with number 3 of another, and no training takes part.
"""

from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from usseg_ray.outputs.base import About, Format, Sink, Strip
from usseg_ray.outputs.png import PngFile
from usseg_ray.pictures.palettes import colour_for

_COLOURS = 24
"""After so many segments colours come again."""


class SegmentsSink(Sink):
    """A map of an image's segments: numbers of 8 bits from 1 on, black where there is none."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        self._file = PngFile(about.width, about.height, 8, _palette().tobytes())

    def write(self, strip: Strip) -> None:
        """Takes the next rows.

        Raises:
            ValueError: The strip has no segments.
        """
        if strip.segments is None:
            raise ValueError("a strip without segments")
        self._file.write(strip.segments)

    def finish(self) -> BinaryIO:
        """Returns the file."""
        return self._file.finish()

    def close(self) -> None:
        """Gives it up."""
        self._file.close()


def _palette() -> UInt8[np.ndarray, "256 3"]:
    colours = np.zeros((256, 3), np.uint8)
    colours[1:] = np.resize(colour_for(("",) * _COLOURS), (255, 3))
    return colours


FORMAT = Format(
    SegmentsSink, "segments", lambda _: ".png", bytes_per_pixel=0.1, most_pixels=64 * 2**20
)
