"""Principal masks: an image's tokens split into regions, by one direction after the other.

The direction in which the tokens that are left vary most points at some of them; those that are
like the one it points at best are a mask, and leave. This goes on until little is left. Nothing is
learnt, and nothing but the tokens of one image takes part.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize, pad

from usseg_ray.core.types import MaskRecipe
from usseg_ray.ops.context import averaged
from usseg_ray.ops.largest import argmax

MOST = 254
"""Masks of an image at most, so that their numbers fit into a byte."""

NONE = -100
"""Id outside of masks; torch's cross-entropy leaves it out."""

CENTRED_PSI = 0.6
"""Threshold of centred cosines that fits tokens in context of any backbone."""

ENOUGH = 0.8
"""Share of an image in masks, after which those that come are mostly of single tokens."""

_ITERATIONS = 30
_CONVERGED = 1e-4


@torch.no_grad()
def principal_masks(
    tokens: Float[Tensor, "B D h w"],
    psi: float,
    *,
    explained: float = 0.95,
    centre: bool = False,
) -> Int64[Tensor, "B h w"]:
    """Splits images into masks.

    In the end a token belongs to the mask that holds more than half of the 3 x 3 tokens around it,
    itself among them, and to none if none does. At the border of the image its outermost tokens
    count once more.

    Args:
        tokens: (B, D, h, w) of any length.
        psi: Cosine to the token that a mask grows from, from which on tokens join it; above 0.
        explained: Share of an image's tokens in masks, from which on no more are looked for.
        centre: Cosines are of what parts a token from the mean of its image.

    Returns:
        (B, h, w) numbers of masks from 1 on, in the order they were found; 0 in none. An image's
        masks do not depend on the others.

    Reference:
        Hahn et al., PriMaPs-EM, TMLR 2024. There the sign of a principal direction is as the
        library has it, and a CRF refines masks; here the end that tokens point at best decides.
    """
    rows = tokens.detach().float().flatten(2).mT
    rows = rows - rows.mean(1, keepdim=True) if centre else rows
    unit = normalize(rows, dim=2)
    left = torch.ones_like(rows[:, :, 0], dtype=torch.bool)
    masks = torch.zeros_like(left, dtype=torch.int64)
    for number in range(1, MOST + 1):
        live = (left.float().mean(1) > 1 - explained).nonzero()[:, 0]
        if not len(live):
            break
        own, remaining = unit[live], left[live]
        direction = principal_direction(rows[live], remaining)
        seeds = argmax(_cosines(own, direction).abs().masked_fill(~remaining, -1.0), 1)
        grown = own[torch.arange(len(live), device=live.device), seeds]
        cosines = _cosines(own, grown).masked_fill(~remaining, -1.0)
        joins = (cosines >= psi * cosines.amax(1, keepdim=True)) & remaining
        masks[live] = masks[live].masked_fill(joins, number)
        left[live] = remaining & ~joins
    return _majority(masks.view(-1, *tokens.shape[2:]))


def find_masks(tokens: Float[Tensor, "B D h w"], recipe: MaskRecipe) -> Int64[Tensor, "B h w"]:
    """Finds the masks that a recipe asks for, as `principal_masks` gives them."""
    seen = tokens if recipe.context is None else averaged(tokens, recipe.context)
    return principal_masks(seen, recipe.psi, explained=recipe.explained, centre=recipe.centre)


def usual_in_masks(
    ids: Int64[Tensor, "B h w"], masks: Int64[Tensor, "B h w"], num_ids: int
) -> Int64[Tensor, "B h w"]:
    """Gives every mask the id that most of its positions have.

    Args:
        ids: (B, h, w) below `num_ids`.
        masks: (B, h, w), as from `principal_masks`.
        num_ids: How many ids there are.

    Returns:
        (B, h, w) ids, of several that are as frequent one of them; `NONE` outside of masks.
    """
    cells, count = masks.flatten(1), int(masks.max()) + 1
    votes = torch.zeros(len(ids), count * num_ids, dtype=torch.int64, device=ids.device)
    votes.scatter_add_(1, cells * num_ids + ids.flatten(1), torch.ones_like(cells))
    winners = votes.view(len(ids), count, num_ids).argmax(2)
    return winners.gather(1, cells).view_as(ids).masked_fill(masks == 0, NONE)


def principal_direction(
    rows: Float[Tensor, "B N D"], kept: Bool[Tensor, "B N"]
) -> Float[Tensor, "B D"]:
    """Finds the direction in which some rows of each image vary most, by power iteration.

    Args:
        rows: (B, N, D).
        kept: (B, N) the rows that count.

    Returns:
        (B, D), unit norm, of either sign; 0 where no row differs from the others. An image's result
        does not depend on the others.
    """
    weights = kept.to(rows.dtype)[:, :, None]
    means = (rows * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
    centred = (rows - means) * weights
    # Any vector that is not orthogonal to the result will do; a row may be.
    start = torch.arange(1.0, rows.shape[2] + 1, device=rows.device).cos()
    direction = normalize(start, dim=0).expand(len(rows), -1)[:, :, None]
    settled = torch.zeros_like(direction[:, :1], dtype=torch.bool)
    for _ in range(_ITERATIONS):
        moved = normalize(centred.mT @ (centred @ direction), dim=1)
        direction, before = torch.where(settled, direction, moved), direction
        settled |= (direction * before).sum(1, keepdim=True) > 1 - _CONVERGED
        if settled.all():
            break
    return direction[:, :, 0]


def _cosines(unit: Float[Tensor, "B N D"], direction: Float[Tensor, "B D"]) -> Float[Tensor, "B N"]:
    return (unit @ direction[:, :, None])[:, :, 0]


def _majority(masks: Int64[Tensor, "B h w"]) -> Int64[Tensor, "B h w"]:
    """Gives each position what more than half of those around it have, itself among them; or 0."""
    around = pad(masks.float(), (1, 1, 1, 1), mode="replicate").unfold(1, 3, 1).unfold(2, 3, 1)
    around = around.flatten(3).long()
    usual = around.mode(3).values
    agree = (around == usual[..., None]).sum(3)
    return torch.where(agree > around.shape[3] // 2, usual, 0)
