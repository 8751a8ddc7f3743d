"""Small image files of every format that is read, and what damages bytes."""

import io

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from tests.encoded import encode, picture
from tests.rasters import deep_png

FORMS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")


def file_of(form: str) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(pixels).save(stream, form, **({} if form in ("BMP", "GIF") else {"exif": exif}))
    return stream.getvalue()


def deep(form: str, bits: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 2**bits, (16, 24), np.uint16)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


FILES = {form: file_of(form) for form in FORMS} | {
    "16-bit PNG": deep("PNG", 16),
    "12-bit TIFF": deep("TIFF", 12),
    "progressive JPEG": encode(Image.fromarray(picture()), "JPEG", progressive=True),
    "CMYK JPEG": encode(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    "LZW TIFF": encode(Image.fromarray(picture()), "TIFF", compression="tiff_lzw"),
    "BigTIFF": encode(Image.fromarray(picture()), "TIFF", big_tiff=True),
    "16-bit PNG in colour": deep_png(np.arange(16 * 24 * 3, dtype=np.uint16).reshape(16, 24, 3)),
    "float TIFF": encode(Image.fromarray(np.ones((16, 24), np.float32)), "TIFF"),
    "palette": encode(Image.fromarray(picture()).convert("P"), "PNG"),
}

edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=6)
"""Where in a file, as a share of it, and what is put there."""


def damaged(content: bytes, made: list[tuple[float, bytes]]) -> bytes:
    """Puts bytes into a file."""
    data = bytearray(content)
    for place, put in made:
        at = int(place * len(data))
        data[at : at + len(put)] = put
    return bytes(data)
