"""Files of published data sets -> files that a shard can hold.

A source's own files go into shards as they are wherever that is possible. Where label values are
not class indices, where pictures are MATLAB arrays, or where an image is a part of a far larger
file, they are written anew without further loss.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Integer, UInt8
from PIL import Image

from usseg_ray.data.containers import PNG, UndecodableError
from usseg_ray.data.decode import decode_image, guarded
from usseg_ray.prepare.entries import Cut
from usseg_ray.prepare.meaning import Colour

_PNG_COLOUR_BYTE, _PNG_IN_COLOUR = 25, (2, 6)

CORNERS = 256
"""Label value of black in a map of colours, above any that a byte can hold; see `corners`."""


def classes_of(
    values: Int32[np.ndarray, "H W"], class_of: Mapping[int, int]
) -> Int32[np.ndarray, "H W"]:
    """Turns a data set's own label values into class indices.

    Args:
        values: (H, W) int32, decoded.
        class_of: Value -> class index or ignore index.

    Returns:
        (H, W) int32 class indices.

    Raises:
        UndecodableError: A value that the data set does not have; names the largest.
    """
    table = np.full(max(*class_of, values.max(initial=0)) + 1, -1, np.int32)
    table[list(class_of)] = list(class_of.values())
    found: Int32[np.ndarray, "H W"] = table[values]
    wrong = values[found < 0]
    if wrong.size:
        raise UndecodableError(
            f"value {wrong.max()} is no label of this data set ({wrong.size} pixels)"
        )
    return found


def classes_of_colours(
    data: bytes, class_of: Mapping[Colour, int]
) -> Int32[np.ndarray, "H W"] | None:
    """Reads a label that is painted in the colours of its classes.

    Args:
        data: A PNG file.
        class_of: Colour -> class index or ignore index.

    Returns:
        (H, W) int32 class indices; `None` if the file has one channel, which holds numbers.

    Raises:
        UndecodableError: A colour that the data set does not have; names the commonest.
    """
    if not (data.startswith(PNG) and data[_PNG_COLOUR_BYTE] in _PNG_IN_COLOUR):
        return None
    red, green, blue = np.moveaxis(decode_image(data).astype(np.int32), 2, 0)
    packed = (red << 16) | (green << 8) | blue
    numbers = np.full(packed.shape, -1, np.int32)
    for (r, g, b), index in class_of.items():
        numbers[packed == (r << 16 | g << 8 | b)] = index
    strange, counts = np.unique(packed[numbers < 0], return_counts=True)
    if strange.size:
        worst = int(strange[counts.argmax()])
        raise UndecodableError(
            f"colour #{worst:06x} is neither in 'palette' nor 'void_colour' ({counts.max()} pixels)"
        )
    return numbers


def read_mat(data: bytes) -> Integer[np.ndarray, "H W *channels"]:
    """Reads the one array of a MATLAB file, such as a tile of Potsdam or its labels.

    Args:
        data: The file.

    Returns:
        (H, W, 3) uint8 colours, channels beyond the third (infrared) left out; or (H, W) labels
        of any integer type, as IIC stores them in int32.

    Raises:
        UndecodableError: It is no MATLAB file, or holds no such array, or several arrays.
    """
    from scipy.io import loadmat  # noqa: PLC0415 (most sets have no such file)

    with guarded("not a MATLAB file: "):
        content = loadmat(io.BytesIO(data))  # type: ignore[arg-type]  # stubs lag behind
    arrays = [value for name, value in content.items() if name[0] != "_"]
    if len(arrays) == 1:
        pixels: np.ndarray = arrays[0]
        if pixels.ndim == 3 and pixels.dtype == np.uint8:
            return pixels[..., :3]
        if pixels.ndim == 2 and pixels.dtype.kind in "iu" and _fits_png(pixels):
            return pixels
    raise UndecodableError(
        "a MATLAB file must hold one array, (H, W, C) of bytes or (H, W) of integers from 0 to "
        "65535"
    )


def _fits_png(pixels: Integer[np.ndarray, "H W"]) -> bool:
    return bool(pixels.min(initial=0) >= 0 and pixels.max(initial=0) < 2**16)


def mean_of_blocks(
    pixels: UInt8[np.ndarray, "H W 3"], shrink: int
) -> UInt8[np.ndarray, "H/{shrink} W/{shrink} 3"]:
    """Makes a picture smaller: each pixel is the mean of a square of them, halves rounded up.

    Args:
        pixels: (H, W, 3) colours; both sides are multiples of `shrink`.
        shrink: Side of the squares, pixels.

    Returns:
        (H / shrink, W / shrink, 3), for a `shrink` of 2 what OpenCV's bilinear resizing gives.
    """
    count = shrink * shrink
    total = np.full((*pixels[::shrink, ::shrink].shape[:2], 3), count // 2, np.uint32)
    for down in range(shrink):
        for right in range(shrink):
            total += pixels[down::shrink, right::shrink]
    mean: UInt8[np.ndarray, "h w 3"] = (total // count).astype(np.uint8)
    return mean


def corners(
    pixels: UInt8[np.ndarray, "H W 3"], shrink: int
) -> Int32[np.ndarray, "H/{shrink} W/{shrink}"]:
    """Makes a label map that is painted in pure colours smaller, and numbers its colours.

    A colour counts as the nearest corner of the colour cube, because two maps of Potsdam were
    packed with loss or painted slightly off; the others have corners only.

    Args:
        pixels: (H, W, 3) colours; both sides are multiples of `shrink`.
        shrink: Every `shrink`th pixel of every `shrink`th row is taken, the first included; that
            is what OpenCV's resizing to the nearest pixel takes.

    Returns:
        (H / shrink, W / shrink) `CORNERS`, plus 4 where red, 2 where green, and 1 where blue is
        closer to full than to none.
    """
    full = pixels[::shrink, ::shrink] >= 128
    numbers: Int32[np.ndarray, "h w"] = CORNERS + full @ np.array([4, 2, 1], np.int32)
    return numbers


class Cutter:
    """Cuts squares out of large pictures; keeps the last picture, as its squares come in a row.

    Args:
        make_smaller: Makes a picture of colours smaller by a factor.
    """

    def __init__(self, make_smaller: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self._make_smaller = make_smaller
        self._last: tuple[str, int] | None = None
        self._whole: np.ndarray = np.zeros((0, 0))

    def cut(self, path: str, cut: Cut) -> bytes:
        """Returns a square, made smaller, as a PNG file.

        Args:
            path: The picture.
            cut: Which square of it; place and side are multiples of its factor.

        Raises:
            UndecodableError: The picture does not decode, or ends before the square does.
        """
        if self._last != (path, cut.shrink):
            whole = decode_image(Path(path).read_bytes())
            height, width = (side // cut.shrink * cut.shrink for side in whole.shape[:2])
            self._whole = self._make_smaller(whole[:height, :width], cut.shrink)
            self._last = path, cut.shrink
        top, left, side = (value // cut.shrink for value in (cut.top, cut.left, cut.side))
        square = self._whole[top : top + side, left : left + side]
        if square.shape[:2] != (side, side):
            raise UndecodableError(f"too small for the part at {cut.left}, {cut.top}")
        return png_bytes(square)


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encodes class indices or colours without loss, where a source's own file cannot be kept.

    Args:
        pixels: (H, W) class indices below 65,536, or (H, W, 3) uint8.

    Returns:
        A PNG file.
    """
    if pixels.ndim == 2:
        pixels = pixels.astype(np.uint8 if pixels.max(initial=0) < 256 else np.uint16)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()
