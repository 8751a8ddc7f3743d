"""Views of an image: the training crop and the evaluation frame.

On the path between a decoded image and a batch. Resizing is Pillow's: bilinear with antialiasing,
as torchvision's default for images; labels take the nearest source pixel. A view keeps its
parameters, so that it can be repeated or undone. No torch here: it runs in many reading processes,
and torch takes 700 MB and seconds in each.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image


@dataclass(frozen=True)
class View:
    """A rectangle of a source image, shown at another size.

    Attributes:
        box: (left, top, right, bottom) in pixels of the source; may fall between pixels.
        size: Side of the square result, pixels.
        flip: Whether the result is mirrored left to right.
    """

    box: tuple[float, float, float, float]
    size: int
    flip: bool = False


def training_view(
    generator: np.random.Generator, height: int, width: int, *, size: int, scale: float, flip: bool
) -> View:
    """Draws a random resized crop, mirrored half of the time.

    Args:
        generator: Source of the draws, keyed by the image and the epoch.
        height: Image height, pixels.
        width: Image width, pixels.
        size: Side of the result, pixels.
        scale: Smallest share of the image's area.
        flip: Whether to mirror at all.

    Returns:
        The view: area uniform in [scale, 1], log aspect ratio uniform in [log 3/4, log 4/3],
        clipped to the image (Inception's crop).
    """
    area, ratio, y, x, mirror = generator.random(5).tolist()
    target = (scale + (1 - scale) * area) * height * width
    aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
    crop_width = min(width, max(1, round(math.sqrt(target * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(target / aspect))))
    top, left = math.floor(y * (height - crop_height + 1)), math.floor(x * (width - crop_width + 1))
    box = (float(left), float(top), float(left + crop_width), float(top + crop_height))
    return View(box, size, flip and mirror < 0.5)


def evaluation_view(height: int, width: int, *, size: int) -> View:
    """Frames an image for clustering and scores: short side to `size`, then the centre square.

    Args:
        height: Image height, pixels.
        width: Image width, pixels.
        size: Side of the result, pixels.

    Returns:
        The view: what remains of the whole image, scaled and then cut, as torchvision's `Resize`
        and `CenterCrop` round it.
    """
    tall, wide = _short_side_to(size, height, width)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    y, x = height / tall, width / wide
    return View((left * x, top * y, (left + size) * x, (top + size) * y), size)


def centre_square(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Scales the short side to `size`, then cuts out the centre.

    Up to one grey level in a few pixels this is `evaluation_view`, which scales only what remains.

    Args:
        image: (H, W, 3) uint8, RGB.
        size: Side of the result, pixels.

    Returns:
        (size, size, 3) uint8.

    Reference:
        PiCIE (CVPR 2021), official code's base of both views, byte for byte.
    """
    tall, wide = _short_side_to(size, *image.shape[:2])
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    resized = Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR)
    return np.asarray(resized)[top : top + size, left : left + size]


def view_image(image: UInt8[np.ndarray, "H W 3"], view: View) -> UInt8[np.ndarray, "3 S S"]:
    """Shows an image through a view.

    Args:
        image: (H, W, 3) uint8, RGB.
        view: What to show.

    Returns:
        (3, size, size) uint8.
    """
    side = (view.size, view.size)
    whole = (0, 0, image.shape[1], image.shape[0])
    if side != image.shape[1::-1] or view.box != whole:
        resized = Image.fromarray(image).resize(side, Image.Resampling.BILINEAR, box=view.box)
        image = np.asarray(resized)
    return np.ascontiguousarray(_mirror(image, view).transpose(2, 0, 1))


def view_label(label: Integer[np.ndarray, "H W"], view: View) -> Integer[np.ndarray, "S S"]:
    """Shows a label map through a view; every value in the result is one of the source's.

    Args:
        label: (H, W) of any integer type.
        view: What to show.

    Returns:
        (size, size), the same type.
    """
    left, top, right, bottom = view.box
    steps = (np.arange(view.size) + 0.5) / view.size
    rows = np.clip((top + steps * (bottom - top)).astype(np.int64), 0, label.shape[0] - 1)
    columns = np.clip((left + steps * (right - left)).astype(np.int64), 0, label.shape[1] - 1)
    return np.ascontiguousarray(_mirror(label[rows[:, None], columns], view))


def _short_side_to(size: int, height: int, width: int) -> tuple[int, int]:
    short = min(height, width)
    tall, wide = (
        size if side == short else max(size, int(size * side / short)) for side in (height, width)
    )
    return tall, wide


def _mirror(pixels: np.ndarray, view: View) -> np.ndarray:
    return pixels[:, ::-1] if view.flip else pixels
