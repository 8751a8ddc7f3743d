"""Views of an image: the training crop and the evaluation frame.

On the path between a decoded image and a batch. Resizing is Pillow's, as torchvision's of images;
labels take the nearest source pixel. A view keeps its parameters, so that it can be repeated or
undone. No torch here: it runs in many reading processes, and torch takes 700 MB and seconds in
each.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Integer, UInt8
from PIL import Image

from usseg_ray.core.views import CropPolicy, Filter, Frame

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


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


def frame_image(image: UInt8[np.ndarray, "H W 3"], frame: Frame) -> UInt8[np.ndarray, "3 h w"]:
    """Shows a whole image in a frame.

    Args:
        image: (H, W, 3) uint8, RGB.
        frame: Which.

    Returns:
        (3, size, size) uint8; the long side keeps its share where nothing is cut.

    Reference:
        torchvision's `Resize` and `CenterCrop` on PIL images, byte for byte: the views of PiCIE
        (`bilinear`), STEGO, HP, SmooSeg and CAUSE (`nearest`), official code.
    """
    if image.shape[:2] == (frame.size, frame.size):  # there is nothing to resize or to cut
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    framed = _framed(Image.fromarray(image), frame, _RESAMPLING[frame.filter])
    return np.ascontiguousarray(np.asarray(framed).transpose(2, 0, 1))


def frame_label(label: Integer[np.ndarray, "H W"], frame: Frame) -> Int32[np.ndarray, "h w"]:
    """Shows a label map in a frame; every value in the result is one of the source's.

    Args:
        label: (H, W) of any integer type.
        frame: Which; where nothing is cut, labels keep their own size, so that each one counts.

    Returns:
        (size, size), or (H, W) in a frame that cuts nothing.
    """
    if frame.crop == "whole" or label.shape == (frame.size, frame.size):
        return np.ascontiguousarray(label, dtype=np.int32)
    picture = Image.fromarray(label.astype(np.int32))
    return np.array(_framed(picture, frame, Image.Resampling.NEAREST))


def num_fixed_crops(policy: CropPolicy, ratios: tuple[float, ...]) -> int:
    """Says how many crops `fixed_crop` makes of an image."""
    if policy == "centre":
        return 1
    return {"five": 5, "ten": 10, "random": 0}[policy] * len(ratios)


def fixed_crop(
    image: UInt8[np.ndarray, "H W 3"],
    number: int,
    *,
    policy: CropPolicy,
    ratios: tuple[float, ...],
    jpeg: int | None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Cuts one of an image's fixed crops: the corners and the centre, at each ratio.

    Args:
        image: (H, W, 3) uint8, RGB.
        number: Which, below `num_fixed_crops`.
        policy: `centre`, which is the whole image; `five`, or `ten`: five of the image and five of
            its mirror image.
        ratios: Height and width of a crop over those of the image.
        jpeg: Quality of the JPEG file that the crop is passed through, or `None` for none.

    Returns:
        The crop at its own size.

    Reference:
        torchvision's `FiveCrop` and `TenCrop`; STEGO, HP, SmooSeg and CAUSE (official code) keep
        such crops as JPEG files of quality 75.
    """
    if policy == "centre":
        return image
    places = num_fixed_crops(policy, (1.0,))
    ratio, place = ratios[number // places], number % places
    if place >= 5:
        image = image[:, ::-1]
    height, width = image.shape[:2]
    tall, wide = max(1, int(height * ratio)), max(1, int(width * ratio))
    corners = [(y, x) for y in (0, height - tall) for x in (0, width - wide)]
    centre = (round((height - tall) / 2), round((width - wide) / 2))
    top, left = [*corners, centre][place % 5]
    crop = np.ascontiguousarray(image[top : top + tall, left : left + wide])
    if jpeg is None:
        return crop
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=jpeg)
    return np.asarray(Image.open(file))


def view_image(
    image: UInt8[np.ndarray, "H W 3"], view: View, *, resample: Filter = "bilinear"
) -> UInt8[np.ndarray, "3 S S"]:
    """Shows an image through a view.

    Args:
        image: (H, W, 3) uint8, RGB.
        view: What to show.
        resample: How, as by Pillow.

    Returns:
        (3, size, size) uint8.
    """
    side = (view.size, view.size)
    whole = (0, 0, image.shape[1], image.shape[0])
    if side != image.shape[1::-1] or view.box != whole:
        resized = Image.fromarray(image).resize(side, _RESAMPLING[resample], box=view.box)
        image = np.asarray(resized)
    return np.ascontiguousarray(_mirror(image, view).transpose(2, 0, 1))


def _framed(picture: Image.Image, frame: Frame, resample: Image.Resampling) -> Image.Image:
    size, (width, height) = frame.size, picture.size
    tall, wide = (size, size) if frame.crop == "squash" else _short_side_to(size, height, width)
    if (wide, tall) != picture.size:
        picture = picture.resize((wide, tall), resample)
    if frame.crop != "centre":
        return picture
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _short_side_to(size: int, height: int, width: int) -> tuple[int, int]:
    short = min(height, width)
    tall, wide = (
        size if side == short else max(size, int(size * side / short)) for side in (height, width)
    )
    return tall, wide


def _mirror(pixels: np.ndarray, view: View) -> np.ndarray:
    return pixels[:, ::-1] if view.flip else pixels
