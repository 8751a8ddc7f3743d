"""Image files of any depth and number of bands: as the numbers they hold, and as they are seen.

Beside `decode`, which makes 8 bits of a file on its own: here a `scaling.Sight` says what becomes
black and white. PNG files and grey TIFF files need nothing else; other TIFF files of more than 8
bits, and bands that are chosen, are read through GDAL.
"""

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Num, UInt8
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TiffImageFile,
)

from usseg_ray.data.containers import (
    ORIENTATION_TAG,
    PNG,
    TIFF,
    UndecodableError,
    orientation,
    plain_png,
    tiff_tags,
)
from usseg_ray.data.decode import check_size, decode_image, guarded, turned
from usseg_ray.data.raster import Raster, has_rasters, opened_raster
from usseg_ray.data.scaling import Sight

_PNG_DEPTH = slice(24, 25)

_UNSIGNED, _FLOAT = 1, 3

_RGB = 2


def depth_of(stream: BinaryIO) -> str:
    """Says what numbers a file holds: `16-bit`, `float` or the like; empty if they fit a byte.

    Args:
        stream: An image file, at its start.

    Raises:
        UndecodableError: Its header is broken.
    """
    start = stream.read(25)
    stream.seek(0)
    if start.startswith(PNG):
        return "16-bit" if start[_PNG_DEPTH] == b"\x10" else ""
    if not start.startswith(TIFF):
        return ""
    with guarded():
        tags = tiff_tags(stream)
        bits = max(tags.get(BITSPERSAMPLE, (1,)))
        form = max(tags.get(SAMPLEFORMAT, (_UNSIGNED,)))
    if form == _FLOAT:
        return "float"
    return f"{bits}-bit" if bits > 8 or form != _UNSIGNED else ""


def is_plain(data: bytes, sight: Sight) -> bool:
    """Says whether a file shows on its own what `decode_seen` makes of it.

    Raises:
        UndecodableError: Its header is broken.
    """
    return not sight.bands and (sight.scaling is None or not depth_of(io.BytesIO(data)))


def decode_seen(data: bytes, sight: Sight) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to upright RGB, as a set and its models see it.

    Args:
        data: A file as `decode.decode_image` takes it, or any TIFF file that GDAL reads.
        sight: Of the set. Files of 8 bits are seen as they are, but for their bands.

    Returns:
        (H, W, 3) uint8; without a scaling, 16-bit samples keep their upper byte.

    Raises:
        UndecodableError: As for `decode.decode_image`; numbers of more than 8 bits for which there
            is no scaling; bands that the file does not have, or of which it does not say which are
            meant.
    """
    if data.startswith(TIFF):
        with guarded():
            check_bands(tiff_tags(io.BytesIO(data)), sight.bands)
    if is_plain(data, sight):
        return decode_image(data)
    return seen(decode_numbers(data, sight.bands), sight)


def seen(numbers: Num[np.ndarray, "H W 3"], sight: Sight) -> UInt8[np.ndarray, "H W 3"]:
    """Makes bytes of numbers; bytes are what they are.

    Raises:
        UndecodableError: They are none, and there is no scaling.
    """
    if numbers.dtype == np.uint8:
        return numbers
    if sight.scaling is None:
        raise UndecodableError(
            f"its numbers are {numbers.dtype}, and those of the training images fit a byte, so "
            "nothing says what is black and white: scale them to 8 bits first"
        )
    return sight.scaling.apply(numbers)


def decode_numbers(data: bytes, bands: tuple[str, ...] = ()) -> Num[np.ndarray, "H W 3"]:
    """Decodes an image file to the numbers that it holds, upright.

    Args:
        data: The file.
        bands: As `scaling.Sight`; without them what the file calls red, green and blue.

    Raises:
        UndecodableError: It does not decode, is too large, has not those bands, or needs the extra
            `geo`.
    """
    if bands and not data.startswith(TIFF):
        raise UndecodableError("--bands chooses among those of TIFF files, and this is none")
    if data.startswith(TIFF):
        return _of_tiff(data, bands)
    return _of_png(data) if depth_of(io.BytesIO(data)) else decode_image(data)


def check_bands(tags: Mapping[int, Any], bands: tuple[str, ...]) -> None:
    """Refuses a file of more than three bands that does not say which are red, green and blue.

    Args:
        tags: Of a TIFF file.
        bands: What the user says.

    Raises:
        UndecodableError: Neither the file nor the user does.
    """
    count, kind = tags.get(SAMPLESPERPIXEL, 1), tags.get(PHOTOMETRIC_INTERPRETATION, _RGB)
    if not bands and count > 3 and kind < _RGB:
        raise UndecodableError(
            f"its {count} bands do not say which are red, green and blue: choose, as in "
            "prepare --bands 3,2,1"
        )


def _of_png(data: bytes) -> Num[np.ndarray, "H W 3"]:
    """Decodes 16-bit samples, of which Pillow gives either byte: the lower where told so."""
    plain, exif = plain_png(data)
    with guarded():
        image = PngImageFile(io.BytesIO(plain))
        check_size(image.height, image.width)
        if str(image.tile[0].args).startswith("LA"):  # whose second byte Pillow does not give
            numbers = _by_gdal(plain, "PNG")
        elif image.mode.startswith("I;16"):
            numbers = _grey(np.array(image, dtype=np.uint16))
        else:
            numbers = np.asarray(image)[..., :3].astype(np.uint16) << 8
            image = PngImageFile(io.BytesIO(plain))
            image.tile = [tile._replace(args=_lower(tile.args)) for tile in image.tile]
            numbers |= np.asarray(image)[..., :3]
        return turned(numbers, orientation(exif))


def _lower(args: Any) -> str:  # noqa: ANN401 (of Pillow)
    """Names the layout that takes the second byte of each sample for the upper one."""
    return str(args).replace(";16B", ";16L")


def _of_tiff(data: bytes, bands: tuple[str, ...]) -> Num[np.ndarray, "H W 3"]:
    with guarded():
        tags = tiff_tags(io.BytesIO(data))
        check_size(tags[IMAGELENGTH], tags[IMAGEWIDTH])
    if not (bands or has_rasters()) and tags.get(SAMPLESPERPIXEL, 1) == 1:
        return _grey_tiff(data)
    return turned(_by_gdal(data, "GTiff", bands), int(tags.get(ORIENTATION_TAG, 1)))


def _by_gdal(data: bytes, driver: str, bands: tuple[str, ...] = ()) -> Num[np.ndarray, "H W 3"]:
    if not has_rasters():
        raise UndecodableError("such files are read with an extra: pip install 'usseg-ray[geo]'")
    with opened_raster(data, driver) as dataset:
        return Raster(dataset, bands).read(0, 0, dataset.height, dataset.width)


def _grey_tiff(data: bytes) -> Num[np.ndarray, "H W 3"]:
    """Decodes one band as Pillow does, which turns it upright."""
    with guarded():
        image = TiffImageFile(io.BytesIO(data))
        numbers = np.array(image)
        if image.mode != "F" and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
            numbers = 2 ** max(image.tag_v2[BITSPERSAMPLE]) - 1 - numbers
    return _grey(numbers)


def _grey(numbers: Num[np.ndarray, "H W"]) -> Num[np.ndarray, "H W 3"]:
    return np.broadcast_to(numbers[..., None], (*numbers.shape, 3))
