"""Foreground from attention: what a ViT looks at is rarely background.

Backbones reduce last-block attention to one number a patch here; ACSeg then splits the regions of
an image into foreground and background by these numbers.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def cls_score(attention: Float[Tensor, "B heads T T"]) -> Float[Tensor, "B N"]:
    """Reads how much the CLS token looks at every patch.

    Args:
        attention: (B, heads, T, T), softmax over the last axis, CLS first, T = N + 1.

    Returns:
        (B, N), mean over heads.

    Reference:
        ACSeg, arXiv 2210.05944, background by self-attention; the paper's row and head reduction
        are not known, this is the usual reading of DINO maps.
    """
    return attention[:, :, 0, 1:].mean(1)


def minhead_score(attention: Float[Tensor, "B heads T T"]) -> Float[Tensor, "B N"]:
    """Reads how much all tokens look at every patch, by the head that looks least.

    Args:
        attention: (B, heads, T, T), softmax over the last axis, CLS first, T = N + 1.

    Returns:
        (B, N), minimum over heads, then sum over queries.

    Reference:
        The reading of ACSeg's background test in a re-implementation (Sooo66/ACSeg).
    """
    return attention.amin(1).sum(1)[:, 1:]


def two_means_split(scores: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Splits numbers into an upper and a lower group by exact one-dimensional 2-means.

    Args:
        scores: (n,), n >= 1.

    Returns:
        (n,) True in the upper group; all True if all numbers are equal.
    """
    ordered = scores.double().sort().values
    if ordered[0] == ordered[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    # Sorted numbers have contiguous groups, so trying every cut finds the best split.
    costs = [_spread(ordered[:cut]) + _spread(ordered[cut:]) for cut in range(1, len(ordered))]
    best = int(torch.stack(costs).argmin()) + 1
    return scores >= ordered[best]


def _spread(numbers: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    return (numbers - numbers.mean()).square().sum()
