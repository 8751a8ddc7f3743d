"""A square crop and a mirror, the same for an image and for a map of its features.

PiCIE shows a network the crop of one view's pixels and crops the features of the other, so that
features which agree do not depend on where an image is cut. Box sides are rounded on the map that
is cut, as in the official code: pixels and features then match to about one feature cell.
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import interpolate


def crop_box(
    height: int, width: int, scale: float, row: float, column: float
) -> tuple[int, int, int, int]:
    """Finds the pixels of a crop.

    Args:
        height: Height of the map.
        width: Width of the map.
        scale: Side of the crop over side of the map.
        row: Where the crop lies between top (0) and bottom (1).
        column: Where it lies between left and right.

    Returns:
        Top, left, height and width, in pixels of the map; at least one pixel.
    """
    tall, wide = max(1, int(scale * height)), max(1, int(scale * width))
    return round((height - tall) * row), round((width - wide) * column), tall, wide


def crop_and_flip(
    maps: Float[Tensor, "B C H W"],
    crop: Float64[Tensor, "B 3"],
    flip: Bool[Tensor, "B"],
    size: tuple[int, int],
) -> Float[Tensor, "B C h w"]:
    """Crops every map at its own place, resizes the crop and mirrors it.

    Args:
        maps: (B, C, H, W) pixels or features.
        crop: (B, 3) scale, row and column of each crop, see `crop_box`.
        flip: (B,) whether to mirror left to right.
        size: (h, w) of the result.

    Returns:
        (B, C, h, w), resized bilinearly without antialiasing; differentiable.

    Reference:
        PiCIE (CVPR 2021), equivariance; official code: `scale` is a ratio of sides, not of areas.
    """
    if not len(maps):
        return maps.new_empty((0, maps.shape[1], *size))
    height, width = maps.shape[2:]
    shown = []
    for image, (scale, row, column), mirrored in zip(
        maps, crop.tolist(), flip.tolist(), strict=True
    ):
        top, left, tall, wide = crop_box(height, width, scale, row, column)
        part = image[None, :, top : top + tall, left : left + wide]
        part = interpolate(part, size=size, mode="bilinear", align_corners=False)
        shown.append(part.flip(3) if mirrored else part)
    return torch.cat(shown)
