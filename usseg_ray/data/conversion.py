"""Files of published data sets -> files that a shard can hold.

A source's own files go into shards as they are wherever that is possible. Where label values are
not class indices, or where pictures are MATLAB arrays, they are written anew without loss.
"""

import io
import zlib
from collections.abc import Mapping

import numpy as np
import scipy.io
from jaxtyping import Int32, UInt8
from PIL import Image
from scipy.io.matlab import MatReadError

from usseg_ray.data.decode import UndecodableError

# What SciPy raises for a file that is no MATLAB file, or a part of one.
_BROKEN = (OSError, ValueError, TypeError, KeyError, NotImplementedError, zlib.error, MatReadError)


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


def read_mat(data: bytes) -> UInt8[np.ndarray, "H W *channels"]:
    """Reads the one array of a MATLAB file, such as a tile of Potsdam or its labels.

    Args:
        data: The file.

    Returns:
        (H, W) or (H, W, 3) uint8; channels beyond the third (infrared) are left out.

    Raises:
        UndecodableError: It is no MATLAB file, or holds no array of bytes, or several.
    """
    try:
        content = scipy.io.loadmat(io.BytesIO(data))  # type: ignore[arg-type]  # stubs lag behind
    except _BROKEN as error:
        raise UndecodableError(f"not a MATLAB file: {error}") from None
    arrays = [value for name, value in content.items() if name[0] != "_"]
    if len(arrays) != 1 or arrays[0].dtype != np.uint8 or arrays[0].ndim not in (2, 3):
        raise UndecodableError("a MATLAB file must hold one array of bytes, (H, W) or (H, W, C)")
    pixels: UInt8[np.ndarray, "H W *channels"] = arrays[0]
    return pixels if pixels.ndim == 2 else pixels[..., :3]


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
