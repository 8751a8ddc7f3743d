"""Regions of tokens: values pooled over those of one label, where they lie, what they settle to."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from usseg_ray.ops.largest import argmax
from usseg_ray.ops.modularity import directions, directions_cosine


def pool_regions(
    values: Float[Tensor, "B N D"], labels: Int64[Tensor, "B N"], num_regions: int
) -> tuple[Float[Tensor, "B R D"], Int64[Tensor, "B R"]]:
    """Sums token values over the regions of every image.

    Args:
        values: (B, N, D), one vector per token.
        labels: (B, N), the region of every token, below `num_regions`.
        num_regions: R.

    Returns:
        (B, R, D) sums and (B, R) token counts; both 0 for a region without tokens.
    """
    members = one_hot(labels, num_regions)
    return members.mT.to(values.dtype) @ values, members.sum(1)


def settled(
    tokens: Float[Tensor, "B N D"], concepts: Float[Tensor, "B R D"], times: int
) -> Float[Tensor, "B R D"]:
    """Moves concepts to the mean direction of their tokens, as spherical k-means does.

    Args:
        tokens: (B, N, D).
        concepts: (B, R, D); one without a token stays where it is.
        times: How often.

    Returns:
        (B, R, D), not normalised.
    """
    unit = directions(tokens)
    for _ in range(times):
        hard = argmax(directions_cosine(unit, directions(concepts)), 2)
        sums, counts = pool_regions(unit, hard, concepts.shape[1])
        concepts = torch.where(counts[:, :, None] > 0, sums, concepts)
    return concepts


def bounding_boxes(masks: Bool[Tensor, "n h w"]) -> Int64[Tensor, "n 4"]:
    """Finds the smallest box around each region.

    Args:
        masks: (n, h, w) True in a region, at least once.

    Returns:
        (n, 4) left, top, right, bottom in tokens, right and bottom exclusive.
    """
    along, down = masks.any(1).int(), masks.any(2).int()
    first = [held.max(1).indices for held in (along, down)]
    last = [held.shape[1] - held.flip(1).max(1).indices for held in (along, down)]
    return torch.stack([*first, *last], 1)
