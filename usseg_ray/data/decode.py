"""Encoded bytes -> arrays: the only place where a picture file is opened.

On an image's path it is called twice: `prepare` decodes each file once to be sure that it can be,
and `reading` decodes the rows of a shard for training and scoring. What one accepts the other
accepts, because both call this. Files come from anywhere, so the format is taken from the
signature, never from the name, and the size in the header is bounded before a pixel is made.
"""

import io
import struct
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

MAX_PIXELS = 2**26

"""Largest width x height that is decoded: 8192 x 8192, or 192 MiB of RGB."""

_JPEG = b"\xff\xd8\xff"

_PNG = b"\x89PNG\r\n\x1a\n"

_FORMATS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (_JPEG, JpegImageFile),
    (_PNG, PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
)

_EXIF_SEARCH_BYTES = 2**16

_ORIENTATION_TAG = 0x0112

_PNG_DEPTH_BYTE = 24

# What the decoders raise for a file that is not what it says it is.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError)


class UndecodableError(ValueError):
    """A file that cannot be used; the message is the reason, without the file's name."""


def picture_size(path: Path) -> tuple[int, int]:
    """Reads height and width from the header of an image file, as `decode_image` will find them.

    Raises:
        UndecodableError: As for `decode_image`.
    """
    with path.open("rb") as stream:
        image = _open(stream)
        return image.height, image.width


def decode_image(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to upright RGB.

    EXIF orientation is applied. Greyscale is repeated over the channels, 16-bit samples keep their
    upper byte, palettes are looked up, and transparency is dropped.

    Args:
        data: A JPEG, PNG, WebP, BMP or TIFF file; of an animation, its first frame.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UndecodableError: Another format, truncated or corrupt, above `MAX_PIXELS`, or with samples
            of 32 bits, whose range no header states.
    """
    if data.startswith(_JPEG):
        pixels = _decode_plain_jpeg(data)
        if pixels is not None:
            return pixels
    image = _open(io.BytesIO(data))
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(_to_rgb(image), dtype=np.uint8)
    except _BROKEN as error:
        raise UndecodableError(str(error)) from None


def decode_label(data: bytes) -> Int32[np.ndarray, "H W"]:
    """Decodes a label file to class indices.

    Args:
        data: A PNG file of one channel: grey of 1 to 16 bits, or a palette, of which the indices
            are taken and the colours ignored.

    Returns:
        (H, W) int32, the stored numbers.

    Raises:
        UndecodableError: Not a PNG file, truncated, corrupt, above `MAX_PIXELS`, or in colour.
    """
    if not data.startswith(_PNG):
        raise UndecodableError("a label must be a PNG file")
    image = _open(io.BytesIO(data))
    if image.mode not in ("L", "P", "1", "I;16"):
        raise UndecodableError(
            f"a label must have one channel of class indices, this one is {image.mode}"
        )
    try:
        labels = np.array(image, dtype=np.int32)
    except _BROKEN as error:
        raise UndecodableError(str(error)) from None
    # Pillow stretches grey of 2 and 4 bits to the full range of a byte; indices must stay small.
    bits = data[_PNG_DEPTH_BYTE]
    return labels // (255 // (2**bits - 1)) if image.mode == "L" else labels


def check_label(
    labels: Int32[np.ndarray, "H W"],
    height: int,
    width: int,
    num_classes: int | None,
    ignore_index: int,
) -> None:
    """Checks that a label fits its image and its data set.

    Args:
        labels: (H, W) int32, decoded.
        height: The upright image's, pixels.
        width: The upright image's, pixels.
        num_classes: Indices below it are classes; `None` if the data set does not say, and then
            `ignore_index` bounds them.
        ignore_index: The one other value that is allowed.

    Raises:
        UndecodableError: Another size, or a value that is neither a class nor `ignore_index`.
    """
    if labels.shape != (height, width):
        raise UndecodableError(
            f"the label is {labels.shape[1]}x{labels.shape[0]}, its image {width}x{height}"
        )
    limit = ignore_index if num_classes is None else num_classes
    wrong = labels[(labels >= limit) & (labels != ignore_index)]
    if wrong.size:
        raise UndecodableError(
            f"value {wrong.max()} is neither a class (0 to {limit - 1}) "
            f"nor the ignore index {ignore_index} ({wrong.size} pixels)"
        )


def _decode_plain_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """Takes the fast road; `None` for what needs Pillow's care: CMYK, EXIF turns, odd streams."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _bound(height, width)
        if colours in ("CMYK", "YCCK") or _is_turned(data):
            return None
        pixels: UInt8[np.ndarray, "H W 3"] = simplejpeg.decode_jpeg(data, "RGB")
    except UndecodableError:
        raise
    except ValueError as error:
        # Pillow would fill a scan that ends early with grey and say nothing.
        if "premature end" in str(error).lower():
            raise UndecodableError("image file is truncated") from None
        return None
    return pixels


def _is_turned(data: bytes) -> bool:
    if b"Exif\0\0" not in data[:_EXIF_SEARCH_BYTES]:
        return False
    orientation: int = _open(io.BytesIO(data)).getexif().get(_ORIENTATION_TAG, 1)
    return orientation != 1


def _open(stream: io.BytesIO | io.BufferedReader) -> ImageFile:
    """Reads the header only. The reader is picked here, as `Image.open` warns of large sizes."""
    start = stream.read(len(_PNG))
    stream.seek(0)
    reader = next((reader for magic, reader in _FORMATS if start.startswith(magic)), None)
    if reader is None:
        raise UndecodableError("not a JPEG, PNG, WebP, BMP or TIFF file" if start else "empty file")
    try:
        image = reader(stream)
    except _BROKEN as error:
        raise UndecodableError(str(error)) from None
    _bound(image.height, image.width)
    return image


def _bound(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UndecodableError(
            f"{width}x{height} is above the limit of {MAX_PIXELS // 2**20} megapixels"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise UndecodableError("32-bit samples: convert them to 8 or 16 bits first")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255.
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
