"""Context: every vector of an image becomes a mean of all of them, the more like it the heavier.

Tokens and codes waver within a region, and k-means sees each of them alone. Averaging over an image
takes that away without learning anything: one step of mean shift on the sphere, or attention
without weights. `features.backbones` does so with tokens where `backbone.context` asks for it,
methods with their codes where `method.context` does, and the floor `kmeans (context)` with tokens.

How far to average follows from the image: vectors side by side mostly belong together, so what
parts them is what is to be averaged away.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

USUAL = 0.75
"""Temperature over the unlikeness of neighbours, where nothing else is asked for."""
_LEAST = 1e-3
"""Temperature of an image whose neighbours are equal."""
_PAIRS_AT_A_TIME = 2**23
"""Cosines in memory at a time; whole images share a pass while they fit."""


def averaged(maps: Float[Tensor, "B C h w"], reach: float = USUAL) -> Float[Tensor, "B C h w"]:
    """Averages the directions of vectors within each image by their likeness.

    x'_i = sum_j softmax_j(cos(x_i, x_j) / tau) x_j / |x_j|, tau = reach * `unlikeness`

    Args:
        maps: (B, C, h, w), a vector of any length at each position.
        reach: The larger, the more of the image is averaged.

    Returns:
        (B, C, h, w), within the unit ball; in the type of `maps`.
    """
    # A mean in bfloat16 would be one of other vectors than those that are stored.
    with torch.autocast(maps.device.type, enabled=False):
        unit = normalize(maps, dim=1)
        tau = (reach * unlikeness(unit)).clamp(min=_LEAST)[:, None, None]
        if torch.compiler.is_compiling():  # a graph has no loop over images
            return _means(unit.flatten(2), tau).view_as(maps)
        images = max(1, _PAIRS_AT_A_TIME // maps[0, 0].numel() ** 2)
        parts = zip(unit.flatten(2).split(images), tau.split(images), strict=True)
        return torch.cat([_means(*part) for part in parts]).view_as(maps)


def unlikeness(unit: Float[Tensor, "B C h w"]) -> Float[Tensor, "B"]:
    """Measures how far vectors side by side differ: one minus their mean cosine.

    Args:
        unit: (B, C, h, w), unit norm over C.

    Returns:
        (B,), 0 where neighbours are equal, or there are none.
    """
    across = 1 - (unit[..., 1:] * unit[..., :-1]).sum(1).flatten(1)
    down = 1 - (unit[..., 1:, :] * unit[..., :-1, :]).sum(1).flatten(1)
    pairs = torch.cat([across, down], 1)
    return pairs.sum(1) / max(1, pairs.shape[1])


def _means(unit: Float[Tensor, "b C N"], tau: Float[Tensor, "b 1 1"]) -> Float[Tensor, "b C N"]:
    weights = (unit.mT @ unit / tau).softmax(2)
    return unit @ weights.mT
