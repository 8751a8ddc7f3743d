"""Views of an image: the training crop and the evaluation frame.

On the path between a decoded image and a batch. Resizing is bilinear with antialiasing, as
Pillow's; labels take the nearest source pixel. A view keeps its parameters, so that it can be
repeated or undone.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A rectangle of a source image, shown at another size.

    `resized` frames (evaluation) scale the whole image first and cut then; otherwise (training
    crops) the rectangle is cut first and scaled then.

    Attributes:
        top, left, height, width: The rectangle, in pixels of the image that it is cut from.
        size: Side of the square result, pixels.
        flip: Whether the result is mirrored left to right.
        resized: (height, width) that the whole image is scaled to before the cut, or `None`.
    """

    top: int
    left: int
    height: int
    width: int
    size: int
    flip: bool = False
    resized: tuple[int, int] | None = None


def training_view(
    generator: torch.Generator, height: int, width: int, *, size: int, scale: float, flip: bool
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
    area, ratio, y, x, mirror = torch.rand(5, generator=generator).tolist()
    target = (scale + (1 - scale) * area) * height * width
    aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
    crop_width = min(width, max(1, round(math.sqrt(target * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(target / aspect))))
    return View(
        top=int(y * (height - crop_height + 1)),
        left=int(x * (width - crop_width + 1)),
        height=crop_height,
        width=crop_width,
        size=size,
        flip=flip and mirror < 0.5,
    )


def evaluation_view(height: int, width: int, *, size: int) -> View:
    """Frames an image for clustering and scores: short side to `size`, then the centre square.

    Args:
        height: Image height, pixels.
        width: Image width, pixels.
        size: Side of the result, pixels.

    Returns:
        The view, rounded as torchvision's `Resize` and `CenterCrop` do.
    """
    if height <= width:
        resized = (size, max(size, int(size * width / height)))
    else:
        resized = (max(size, int(size * height / width)), size)
    top, left = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return View(top, left, size, size, size, resized=resized)


def view_image(image: np.ndarray, view: View) -> UInt8[Tensor, "3 S S"]:
    """Shows an image through a view.

    Args:
        image: (H, W, 3) uint8.
        view: What to show.

    Returns:
        (3, size, size) uint8.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    if view.resized is not None:
        pixels = _cut(_resize(pixels, view.resized), view)
    else:
        pixels = _resize(_cut(pixels, view), (view.size, view.size))
    return _mirror(pixels[0], view).contiguous()


def view_label(label: np.ndarray, view: View) -> Int[Tensor, "S S"] | UInt8[Tensor, "S S"]:
    """Shows a label map through a view; every value in the result is one of the source's.

    Args:
        label: (H, W) of any integer type.
        view: What to show.

    Returns:
        (size, size), the same type.
    """
    values = torch.from_numpy(label)[None]
    if view.resized is not None:
        values = _cut(_nearest(values, view.resized), view)
    else:
        values = _nearest(_cut(values, view), (view.size, view.size))
    return _mirror(values[0], view).contiguous()


def _cut(values: Tensor, view: View) -> Tensor:
    rows = slice(view.top, view.top + view.height)
    return values[..., rows, view.left : view.left + view.width]


def _mirror(values: Tensor, view: View) -> Tensor:
    return values.flip(-1) if view.flip else values


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = values.shape[-2:]
    rows = ((torch.arange(size[0]) + 0.5) * (height / size[0])).long().clamp_(max=height - 1)
    columns = ((torch.arange(size[1]) + 0.5) * (width / size[1])).long().clamp_(max=width - 1)
    return values[..., rows[:, None], columns]
