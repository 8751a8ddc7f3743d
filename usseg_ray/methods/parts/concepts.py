"""Contrast between concepts: CAUSE's loss over codes of a clusterbook.

Tokens take the code they are nearest to. Two codes are alike, unlike or neither, and so are two
tokens: alike ones attract, unlike ones repel. Keys are the teacher's projections of the batch and
those that the bank kept of earlier ones (`ops.concept_bank`). What the loss needs of positives is
one sum of keys per code, and of all others one pass over the keys, so keys come in blocks, nothing
of the size anchors x keys is kept, and the gradient is ready with the loss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable
from torch.nn.functional import normalize

from usseg_ray.ops.concept_bank import Keys
from usseg_ray.ops.counting import occurrences
from usseg_ray.ops.largest import argmax
from usseg_ray.ops.products import rounded_products

# Logits at a time.
_LOGITS = 2**22


class Relations(NamedTuple):
    """Which codes are positives or negatives of the anchors' codes.

    Attributes:
        row: (N,) the row of the tables that belongs to each anchor.
        positive: (U, K) whether tokens of code k attract the anchors of a row.
        active: (U, K) whether they are positives or negatives.
    """

    row: Int64[Tensor, "N"]
    positive: Bool[Tensor, "U K"]
    active: Bool[Tensor, "U K"]


class ContrastTerms(NamedTuple):
    """Contrastive losses of images.

    Attributes:
        nats: (B,) mean over an image's positive pairs; 0 without any.
        pairs: (B,) number of positive pairs.
    """

    nats: Float[Tensor, "B"]
    pairs: Float[Tensor, "B"]


# From tokens to codes, and from codes to who attracts whom.


def nearest_codes(
    tokens: Float[Tensor, "B D h w"], codebook: Float[Tensor, "K D"]
) -> Int64[Tensor, "B h w"]:
    """Finds the code with the largest cosine to every token.

    Args:
        tokens: (B, D, h, w), not normalised.
        codebook: (K, D), not normalised.

    Returns:
        (B, h, w), the first one in a tie.
    """
    # A token's length scales its cosines alike.
    directions = normalize(codebook, dim=1)
    # One image at a time: all cosines of a batch at once would be the largest tensor of a step.
    return torch.stack([argmax(directions @ image.flatten(1), 0) for image in tokens]).view(
        len(tokens), *tokens.shape[2:]
    )


def share_used(codes: Int64[Tensor, "..."], count: int) -> Float[Tensor, ""]:
    """Computes the share of `count` codes that occur."""
    return (occurrences(codes, count) > 0).float().mean()


def relate(
    anchors: Int64[Tensor, "N"],
    codebook: Float[Tensor, "K D"],
    *,
    positive_above: float,
    negative_below: float,
) -> Relations:
    """Tells apart the codes that attract and repel the anchors.

    Args:
        anchors: (N,) codes of the anchors.
        codebook: (K, D), not normalised.
        positive_above: Codes with a larger cosine attract.
        negative_below: Codes with a smaller cosine repel.

    Returns:
        Tables for the codes that occur.

    Reference:
        CAUSE, arXiv 2310.07379, concept-wise contrastive learning, as in the official code.
    """
    directions = normalize(codebook, dim=1)
    present, row = anchors.unique(return_inverse=True)
    cosines = directions[present] @ directions.mT
    positive = cosines > positive_above
    return Relations(row, positive, positive | (cosines < negative_below))


# The loss of an image, and the mean over images and kinds of keys.


def contrast(
    anchors: Float[Tensor, "B P J"],
    relations: Relations,
    keys: Keys,
    *,
    temperature: float,
    keys_are_anchors: bool = False,
) -> ContrastTerms:
    """Computes for every image the mean over its positive pairs of minus the log-likelihood.

    The likelihood of a key is its exponentiated logit over the sum of those of all positives and
    negatives of the anchor.

    Args:
        anchors: (B, P, J), not normalised.
        relations: Of the anchors' codes, image by image.
        keys: No gradient flows to them.
        temperature: Logits are cosines over it; at least 0.03, below which exponentials vanish.
        keys_are_anchors: Whether key n is a view of anchor n, which is then no pair.

    Returns:
        A term per image.

    Reference:
        CAUSE, arXiv 2310.07379, concept-wise contrastive learning, as in the official code.
    """
    nats, pairs = _Contrast.apply(
        normalize(anchors, dim=2), relations, keys, temperature, keys_are_anchors
    )
    return ContrastTerms(nats, pairs)


def mean_term(parts: Sequence[ContrastTerms]) -> Float[Tensor, ""]:
    """Averages terms that count alike, whatever their numbers of pairs.

    Args:
        parts: Terms of all kinds of keys.

    Returns:
        The mean of the terms with a pair, 0 if none has; without a pair, a term of the official
        code is 0 / 0.
    """
    used = torch.cat([part.pairs for part in parts]) > 0
    return torch.cat([part.nats for part in parts]).sum() / used.sum().clamp(min=1)


def contrast_concepts(
    anchors: Float[Tensor, "B P J"],
    codebook: Float[Tensor, "K D"],
    fresh: Keys,
    kept: Keys,
    *,
    thresholds: tuple[float, float],
    temperature: float,
) -> tuple[ContrastTerms, Float[Tensor, ""]]:
    """Contrasts anchors with their other views, and with keys of earlier batches.

    Args:
        anchors: (B, P, J), not normalised.
        codebook: (K, D), not normalised.
        fresh: The other view of each anchor, image by image, with its code.
        kept: Keys of earlier batches.
        thresholds: Of codes' cosines: those above the first attract, those below the second repel.
        temperature: Logits are cosines over it.

    Returns:
        The terms of the images among themselves, and the loss, the mean over both kinds of keys.
    """
    above, below = thresholds
    relations = relate(fresh.codes, codebook, positive_above=above, negative_below=below)
    within = contrast(anchors, relations, fresh, temperature=temperature, keys_are_anchors=True)
    before = contrast(anchors, relations, kept, temperature=temperature)
    return within, mean_term([within, before])


# What is behind it: sums over the keys, from which loss and gradient follow together.


class _Contrast(torch.autograd.Function):
    """Contrastive terms with their gradient, from one pass over the keys.

    With n_i positives of anchor i that sum up to P_i, and Z_i the sum of exponentials, the term is
    the sum over i of n_i log Z_i - a_i P_i / T, over the sum of n_i.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        anchors: Float[Tensor, "B P J"],
        relations: Relations,
        keys: Keys,
        temperature: float,
        keys_are_anchors: bool,
    ) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        rows = anchors.flatten(0, 1)
        # Denominators take a pass over the keys, positives one sum of keys a code.
        total, repelled = _weigh(rows, relations, keys, temperature, own=keys_are_anchors)
        count, attracted = _positives(relations, keys, own=keys_are_anchors)
        # The loss: both sums are per anchor, the mean is over an image's pairs.
        log_total = torch.where(count > 0, total, 1).log() + 1 / temperature
        nats = count * log_total - (rows * attracted).sum(1) / temperature
        images, tokens, _ = anchors.shape
        pairs = count.view(images, tokens).sum(1)
        share = 1 / pairs.clamp(min=1)
        # Where the total underflows, so do the weights that it divides.
        scale = count / total.clamp(min=torch.finfo(total.dtype).tiny)
        gradient = repelled.mul_(scale[:, None]).sub_(attracted).view_as(anchors)
        ctx.save_for_backward(gradient.mul_(share[:, None, None] / temperature))
        ctx.mark_non_differentiable(pairs)
        return nats.view(images, tokens).sum(1) * share, pairs

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction, grad: Float[Tensor, "B"], _: Tensor
    ) -> tuple[Float[Tensor, "B P J"], None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None, None] * gradient, None, None, None, None


def _weigh(
    rows: Float[Tensor, "N J"], relations: Relations, keys: Keys, temperature: float, *, own: bool
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N J"]]:
    """Sums exp(logit - 1 / T) over positives and negatives, and the keys weighted by it."""
    total, weighted = rows.new_zeros(len(rows)), torch.zeros_like(rows)
    step = max(1, _LOGITS // max(1, len(rows)))
    for start in range(0, len(keys.values), step):
        values, codes = keys.values[start : start + step], keys.codes[start : start + step]
        with rounded_products(rows.device):
            cosines = rows @ values.mT
        weights = cosines.sub_(1).div_(temperature).exp_()
        weights.mul_(relations.active[:, codes][relations.row])
        if own:
            weights.diagonal(-start).zero_()
        total += weights.sum(1)
        with rounded_products(rows.device):
            weighted.addmm_(weights, values)
    return total, weighted


def _positives(
    relations: Relations, keys: Keys, *, own: bool
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N J"]]:
    """Counts and sums the positive keys of every anchor, from one sum per code."""
    attracts = relations.positive.to(keys.values.dtype)
    sums = keys.values.new_zeros((attracts.shape[1], keys.values.shape[1]))
    sums.index_add_(0, keys.codes, keys.values)
    counts = occurrences(keys.codes, attracts.shape[1]).to(sums.dtype)
    count, attracted = (attracts @ counts)[relations.row], (attracts @ sums)[relations.row]
    if own:
        itself = attracts[relations.row, keys.codes]
        count, attracted = count - itself, attracted - itself[:, None] * keys.values
    return count, attracted


# Keys of earlier batches: a ring of entries for each code, all in one table that grows.
