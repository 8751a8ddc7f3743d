"""Images with their segments laid over them in colour: for people to look at."""

import io
from typing import BinaryIO

import numpy as np
from PIL import Image

from usseg_ray.data.decode import MAX_PIXELS
from usseg_ray.outputs.base import About, Format, Sink, Strip

_COLOUR, _IMAGE = 9, 7
"""Sixteenths of each in the mixture."""

_QUALITY = 88


class OverlaySink(Sink):
    """A JPEG; pixels of no output stay as they are."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        self._rows: list[np.ndarray] = []

    def write(self, strip: Strip) -> None:
        """Mixes the next rows."""
        names = self.about.names
        mixed = self._mixed(strip, names.palette)
        left = strip.mask == names.ignored
        mixed[left] = strip.image[left]
        self._rows.append(mixed)

    def finish(self) -> BinaryIO:
        """Encodes the picture."""
        stream = io.BytesIO()
        Image.fromarray(np.concatenate(self._rows)).save(stream, "JPEG", quality=_QUALITY)
        stream.seek(0)
        return stream

    def close(self) -> None:
        """Forgets the rows."""
        self._rows.clear()

    @staticmethod
    def _mixed(strip: Strip, palette: np.ndarray) -> np.ndarray:
        # Black beyond the palette: pixels of no output, which the image replaces.
        table = np.zeros((max(len(palette), int(strip.mask.max()) + 1), 3), np.uint16)
        table[: len(palette)] = palette
        mixed = _COLOUR * table[strip.mask] + _IMAGE * strip.image.astype(np.uint16)
        return (mixed // (_COLOUR + _IMAGE)).astype(np.uint8)


FORMAT = Format(
    OverlaySink, "overlays", lambda _: ".jpg", bytes_per_pixel=0.35, most_pixels=MAX_PIXELS
)
