"""Encoded bytes -> arrays: the only place where a picture file is opened.

On an image's path it is called twice: `prepare` decodes each file once to be sure that it can be,
and `reading` decodes the rows of a shard for training and scoring. What one accepts the other
accepts, because both call this. Files come from anywhere, so the format is taken from the
signature, never from the name, and the size in the header is bounded before a pixel is made.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Int32, Num, UInt8
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from usseg_ray.data.containers import (
    AVIF,
    HEIC,
    JPEG,
    ORIENTATION_TAG,
    PNG,
    TIFF,
    UndecodableError,
    check_scans,
    container_of,
    jpeg_exif,
    orientation,
    plain_png,
    tiff_tags,
)

MAX_PIXELS = 2**26

"""Largest width x height that is decoded: 8192 x 8192, or 192 MiB of RGB."""

MAX_FILE_BYTES = 2**30

MAX_ASPECT = 64
"""Long side over short side: at `eval_size` 448, a frame of 36 MiB is cut from such an image."""

BYTES_PER_PIXEL = 20

"""Memory that decoding takes at most beside the file: 1.25 GiB; 8 a pixel but for WebP and AVIF."""

try:  # the extra "heic"
    from pillow_heif.as_plugin import HeifImageFile
except ImportError:
    HeifImageFile = None

_FORMATS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (JPEG, JpegImageFile),
    (PNG, PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    *((start, TiffImageFile) for start in TIFF),
    (b"GIF8", GifImageFile),
    (AVIF, AvifImageFile),
    *(() if HeifImageFile is None else ((HEIC, HeifImageFile),)),
)

_END_OF_JPEG = b"\xff\xd9"

_PNG_DEPTH_BYTE = 24

_START = 256  # bytes: what tells a format, with the brands of AVIF and HEIC

_BAND_PIXELS = 2**20

_BITS_TAG, _INTERPRETATION_TAG, _WHITE_IS_ZERO = 258, 262, 0

_COMPRESSION_TAG, _OF_JPEG, _PIECES_TAGS = 259, (6, 7), (273, 324)


@contextmanager
def guarded(what: str = "") -> Iterator[None]:
    """Makes whatever a library raises over one file an `UndecodableError` that gives the reason.

    Decoders meet files that nobody foresaw, and their list of exceptions is not closed: one file
    must cost itself, never the run.

    Args:
        what: Said before the reason.
    """
    try:
        yield
    except UndecodableError:
        raise
    except MemoryError:
        raise UndecodableError("decoding takes more memory than there is") from None
    except Exception as error:  # noqa: BLE001 (see above)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UndecodableError(f"{what}{reason}") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Reads height and width from the header of an image file, as it lies in the file.

    Raises:
        UndecodableError: As for `decode_image`.
    """
    with path.open("rb") as stream, guarded():
        image = _open(stream)
        return image.height, image.width


def check_header(data: bytes, most_pixels: int) -> None:
    """Reads the header of an image file and refuses what would take too much to decode or frame.

    Args:
        data: As of `decode_image`.
        most_pixels: Largest width x height.

    Raises:
        UndecodableError: It is larger, longer than `MAX_ASPECT`, of more scans than its size is
            worth, or no image.
    """
    with guarded():
        header = plain_png(data)[0] if data.startswith(PNG) else data
        image = _open(io.BytesIO(header))
        check_size(image.height, image.width, most_pixels)
        check_aspect(image.height, image.width)
        if data.startswith(JPEG):
            check_scans(data, image.height, image.width)


def decode_image(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to upright RGB.

    EXIF orientation is applied; one that is broken, or stands in XMP alone, is not. Greyscale is
    repeated over the channels, 16-bit samples keep their upper byte, palettes are looked up, and
    transparency is dropped.

    Args:
        data: A JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF file; of an animation, its first frame.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UndecodableError: Another format, truncated or corrupt, above `MAX_PIXELS`, with samples
            of 32 bits, whose range no header states, or with samples of 16 bits that use less than
            a sixteenth of their range.
    """
    with guarded():
        if data.startswith(JPEG):
            exif = jpeg_exif(data)
            pixels = _decode_jpeg(data)
        else:
            pixels, exif = _decode_by_pillow(data)
        return turned(pixels, orientation(exif))


def turn_of(data: bytes) -> int:
    """Says how EXIF turns an image file, 1 to 8; from 5 on, height and width change places."""
    with guarded():
        if data.startswith(JPEG):
            return orientation(jpeg_exif(data))
        if data.startswith(PNG):
            return orientation(plain_png(data)[1])
        if data.startswith(TIFF):
            return int(tiff_tags(io.BytesIO(data)).get(ORIENTATION_TAG, 1))
        image = _open(io.BytesIO(data))
        return orientation(image.info.get("exif", b""))


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
    if not data.startswith(PNG):
        raise UndecodableError("a label must be a PNG file")
    with guarded():
        image = _open(io.BytesIO(plain_png(data)[0]))
        if image.mode not in ("L", "P", "1", "I;16"):
            raise UndecodableError(
                f"a label must have one channel of class indices, this one is {image.mode}: "
                "name the colours of the classes as 'palette' in dataset.json"
            )
        labels = np.array(image, dtype=np.int32)
    # Pillow stretches grey of 2 and 4 bits to the full range of a byte; indices must stay small.
    bits = data[_PNG_DEPTH_BYTE]
    return labels // (255 // (2**bits - 1)) if image.mode == "L" and bits < 8 else labels


def check_aspect(height: int, width: int) -> None:
    """Refuses strips, which would be shown with a short side of hundreds of pixels.

    Raises:
        UndecodableError: The long side is more than `MAX_ASPECT` times the short one.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UndecodableError(
            f"{width}x{height} is a strip, more than {MAX_ASPECT} times as long as wide: cut it up"
        )


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


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Takes the fast road where it can; CMYK and odd streams need Pillow's care."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        check_size(height, width)
        check_scans(data, height, width)
        if colours not in ("CMYK", "YCCK"):
            return _decode_plain_jpeg(data)
    except UndecodableError:
        raise
    except ValueError as error:
        # Pillow would fill a scan that ends early with grey and say nothing.
        if "premature end" in str(error).lower():
            raise UndecodableError("image file is truncated") from None
    return _decode_by_pillow(data)[0]


def _decode_plain_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    try:
        pixels: UInt8[np.ndarray, "H W 3"] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        # The end marker alone is missing, or more: with one the decoder knows.
        if "premature end of jpeg file" not in str(error).lower():
            raise
        pixels = simplejpeg.decode_jpeg(data + _END_OF_JPEG, "RGB")
    return pixels


def _decode_by_pillow(data: bytes) -> tuple[UInt8[np.ndarray, "H W 3"], bytes]:
    """Returns the pixels and the EXIF block that is still to be obeyed."""
    exif = b""
    if data.startswith(PNG):
        data, exif = plain_png(data)
    image = _open(io.BytesIO(data))
    if data.startswith(JPEG):
        check_scans(data, image.height, image.width)
    elif isinstance(image, TiffImageFile) and image.tag_v2.get(_COMPRESSION_TAG) in _OF_JPEG:
        pieces = max(len(image.tag_v2.get(tag, ())) for tag in _PIECES_TAGS)
        check_scans(data, image.height, -(-image.width // max(1, pieces)))
    image.load()
    if isinstance(image, WebPImageFile | AvifImageFile):
        exif = image.info.get("exif", b"")
    return _to_rgb(image, _bits(image, data)), exif


def _open(stream: io.BytesIO | io.BufferedReader) -> ImageFile:
    """Reads the header only. The reader is picked here, as `Image.open` warns of large sizes."""
    start = stream.read(_START)
    stream.seek(0)
    kind = container_of(start)
    reader = next(
        (one for magic, one in _FORMATS if magic == kind or start.startswith(magic)), None
    )
    if reader is None:
        raise UndecodableError(_unread(start, kind))
    image = reader(stream)
    check_size(image.height, image.width)
    return image


def _unread(start: bytes, kind: bytes) -> str:
    if kind == HEIC:
        return "a HEIC file, which is read with an extra: pip install 'usseg-ray[heic]'"
    return "not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC file" if start else "empty file"


def check_size(height: int, width: int, most: int = MAX_PIXELS) -> None:
    """Refuses what would take too much memory; see `BYTES_PER_PIXEL`.

    Raises:
        UndecodableError: It has more than `most` pixels.
    """
    if height * width > most:
        raise UndecodableError(
            f"{width}x{height} is above the limit of {most // 2**20} megapixels: cut it up, "
            "or make it a tiled TIFF, which usseg-ray[geo] has prepare cut and predict --tile read"
        )


def _bits(image: ImageFile, data: bytes) -> int:
    """Reads how many bits a sample has in the file."""
    if isinstance(image, PngImageFile):
        return data[_PNG_DEPTH_BYTE]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_TAG, (8,))))
    return 8


def _to_rgb(image: ImageFile, bits: int) -> UInt8[np.ndarray, "H W 3"]:
    """Converts a loaded picture in bands of rows, as whole copies would add up."""
    if image.mode in ("I", "F"):
        raise UndecodableError(
            "32-bit samples, or signed ones: convert them to 8 or 16 bits without a sign first"
        )
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    inverted = (
        isinstance(image, TiffImageFile) and image.tag_v2.get(_INTERPRETATION_TAG) == _WHITE_IS_ZERO
    )
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(height, top + rows)))
        if band.mode.startswith("I;16"):
            # Pillow's own conversion clips at 255, and leaves white at zero.
            grey = (np.asarray(band) >> (bits - 8)).astype(np.uint8)
            pixels[top : top + rows] = (~grey if inverted else grey)[..., None]
        else:
            pixels[top : top + rows] = np.asarray(band.convert("RGB"))
    if bits > 8 and pixels.max() < 16:
        raise UndecodableError(
            f"its samples of {bits} bits use less than a sixteenth of their range, so that all "
            "would be black: scale them to the whole range, or to 8 bits, first"
        )
    return pixels


def turned(pixels: Num[np.ndarray, "H W *C"], number: int) -> Num[np.ndarray, "h w *C"]:
    """Turns a picture upright as EXIF numbers the ways in which it may lie."""
    if number >= 5:
        pixels = pixels.swapaxes(0, 1)
    if number in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if number in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


HEIC_SUFFIXES = frozenset({".heic", ".heif"})

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".avif"}
    | (set() if HeifImageFile is None else HEIC_SUFFIXES)
)
