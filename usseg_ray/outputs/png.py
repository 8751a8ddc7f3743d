"""Label maps as PNG files with the colours of the names, written row by row.

Pillow writes a PNG from a whole picture, and an image of any size is none.
"""

import struct
import tempfile
import zlib
from typing import BinaryIO, cast

import numpy as np

from usseg_ray.outputs.base import About, Format, Sink, Strip

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3
IN_MEMORY = 2**26
"""Bytes above which an unfinished file lies in the folder for temporary files."""


class PngFile:
    """A PNG file of one channel that takes rows.

    Args:
        width: Pixels.
        height: Pixels.
        depth: Bits a pixel, 8 or 16.
        palette: RGB of each value, of 8 bits; grey without one.
    """

    def __init__(self, width: int, height: int, depth: int, palette: bytes | None = None) -> None:
        spooled = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed by its reader)
        self._stream = cast("BinaryIO", spooled)
        self._packer = zlib.compressobj(6)
        kind = _GREY if palette is None else _INDEXED
        self._stream.write(_SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", palette)

    def write(self, rows: np.ndarray) -> None:
        """Takes (h, W) unsigned numbers of the file's depth."""
        raw = rows.astype(rows.dtype.newbyteorder(">")).view(np.uint8)
        # A byte before each row says how it is predicted: not at all.
        filtered = np.pad(raw, ((0, 0), (1, 0)))
        self._data(self._packer.compress(filtered.tobytes()))

    def finish(self) -> BinaryIO:
        """Returns the file, to be read from its start and closed."""
        self._data(self._packer.flush())
        self._chunk(b"IEND", b"")
        self._stream.seek(0)
        return self._stream

    def close(self) -> None:
        """Gives it up."""
        self._stream.close()

    def _data(self, packed: bytes) -> None:
        if packed:
            self._chunk(b"IDAT", packed)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._stream.write(struct.pack(">I", len(data)) + kind + data)
        self._stream.write(struct.pack(">I", zlib.crc32(kind + data)))


class PngSink(Sink):
    """A label map: indices of 8 bits with a palette; above 255 clusters grey of 16 bits."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        small = about.names.ignored < 2**8
        palette = about.names.palette.tobytes() if small else None
        self._file = PngFile(about.width, about.height, 8 if small else 16, palette)

    def write(self, strip: Strip) -> None:
        """Takes the next rows."""
        self._file.write(strip.mask)

    def finish(self) -> BinaryIO:
        """Returns the file."""
        return self._file.finish()

    def close(self) -> None:
        """Gives it up."""
        self._file.close()


FORMAT = Format(PngSink, "masks", lambda _: ".png", bytes_per_pixel=0.1)
