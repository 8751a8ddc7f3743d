"""Guided filter: scores of patches follow the edges of the image that they were made of.

In every window the filtered scores are a linear function of the colours, so they step where the
colours step and are smooth where these are. Coefficients are found on a coarser grid, as they vary
slowly; nothing is learnt, and the cost does not depend on the window.

Reference:
    He, Sun and Tang, "Guided image filtering", ECCV 2010 (eq. 14 to 16, colour guidance), and
    He and Sun, "Fast guided filter", arXiv 1505.00996, 2015.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

REACH = 0.1
"""Radius of a window over the short side of the image: two patches of 16 pixels at 320."""
SMOOTHNESS = 1e-3
"""Variance of a colour, of 0 to 1, below which it is no edge (epsilon of the paper)."""
COARSER = 4
"""Pixels a side that coefficients have in common."""


def guided(
    scores: Float[Tensor, "B K H W"], pixels: UInt8[Tensor, "B 3 H W"]
) -> Float[Tensor, "B K H W"]:
    """Filters maps of scores with the colours of their images as guide.

    Args:
        scores: (B, K, H, W), of the size of the pixels.
        pixels: (B, 3, H, W), on the same device.

    Returns:
        (B, K, H, W) float32; sums over K stay as they were, up to rounding.
    """
    found = [_one(one, image) for one, image in zip(scores.float(), pixels, strict=True)]
    return torch.stack(found)


def _one(scores: Float[Tensor, "K H W"], pixels: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "K H W"]:
    height, width = pixels.shape[1:]
    colours = pixels.float() / 255
    step = COARSER if min(height, width) >= 2 * COARSER else 1
    size = (-(-height // step), -(-width // step))
    few, guide = (interpolate(part[None], size=size, mode="area")[0] for part in (scores, colours))
    radius = max(1, round(REACH * min(height, width) / step))
    mean, level = _window(guide, radius), _window(few, radius)
    # Covariances of the colours with each other and with the scores, in every window.
    pairs = _window((guide[:, None] * guide[None]).flatten(0, 1), radius).unflatten(0, (3, 3))
    pairs = pairs - mean[:, None] * mean[None]
    joint = _window((guide[:, None] * few[None]).flatten(0, 1), radius).unflatten(0, (3, -1))
    joint = joint - mean[:, None] * level[None]
    slope = torch.einsum("ijhw,jkhw->ikhw", _inverse(pairs), joint)
    offset = level - (slope * mean[:, None]).sum(0)
    # A pixel is in many windows: it takes the mean of their coefficients.
    linear = _window(torch.cat([slope.flatten(0, 1), offset]), radius)
    linear = interpolate(linear[None], size=(height, width), mode="bilinear")[0]
    slope, offset = linear[: -len(few)].unflatten(0, (3, -1)), linear[-len(few) :]
    found: Tensor = (slope * colours[:, None]).sum(0) + offset
    return found


def _window(maps: Float[Tensor, "C h w"], radius: int) -> Float[Tensor, "C h w"]:
    """Averages over square windows; at the border over what there is of them."""
    side = 2 * radius + 1
    for window, border in (((side, 1), (radius, 0)), ((1, side), (0, radius))):
        maps = avg_pool2d(maps, window, 1, border, count_include_pad=False)
    return maps


def _inverse(pairs: Float[Tensor, "3 3 h w"]) -> Float[Tensor, "3 3 h w"]:
    """Inverts the regularised covariance of three colours at every place, by its cofactors."""
    m = pairs + SMOOTHNESS * torch.eye(3, device=pairs.device)[..., None, None]
    first, second, third = m
    sides = ((second, third), (third, first), (first, second))
    columns = [torch.linalg.cross(one, other, dim=0) for one, other in sides]
    inverse: Tensor = torch.stack(columns, 1) / (first * columns[0]).sum(0)
    return inverse
