"""Rasters that tests write, and PNG files of 16 bits in colour, which Pillow does not."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image


def raster(path: Path, bands: np.ndarray, names: tuple[str, ...] = (), **profile: Any) -> Path:
    """Writes (bands, H, W) numbers as a TIFF file."""
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as dataset:
        dataset.write(bands)
        if names:
            dataset.descriptions = names
    return path


def deep_png(numbers: np.ndarray) -> bytes:
    """Encodes (H, W, channels) uint16 as a PNG file."""
    height, width, channels = numbers.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = numbers.astype(">u2").tobytes()
    step = len(rows) // height
    lines = b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(numbers: np.ndarray, **options: Any) -> bytes:
    """Encodes (H, W) numbers as a TIFF file by Pillow."""
    stream = io.BytesIO()
    Image.fromarray(numbers).save(stream, "TIFF", **options)
    return stream.getvalue()
