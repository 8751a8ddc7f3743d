"""Pictures as bytes of any form, for tests of what reads them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    channels = (4 * columns, 5 * rows, 2 * rows + 2 * columns)
    return np.stack(channels, axis=-1).astype(np.uint8)


def noise() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def encoded(form: str, **options: Any) -> bytes:
    return encode(Image.fromarray(picture()), form, **options)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A part of a PNG file."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def segment(marker: int, body: bytes) -> bytes:
    """A part of a JPEG file."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
