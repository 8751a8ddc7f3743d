"""Proxy-adaptive positives: which patches of a batch an anchor is pulled to, and pushed from.

An anchor starts with what is like its own token. The mean of that, its proxy, takes its place, and
so on for some rounds: the further a proxy moves, the wider become both its circle of positives and
that of sure negatives. What lies between the two is left out of the loss.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

_BASE_TEMPERATURE = 0.07
"""The loss is scaled by temperature / this, as in the official code."""


class Zones(NamedTuple):
    """Around an anchor, by cosine to its proxy.

    Attributes:
        positive: Phi, above which a patch is a positive at first.
        negative: Psi, below which a patch is a negative at first.
        rounds: Times that proxies move.
        positive_step: Phi falls by what a proxy moves over this.
        negative_step: Psi rises by what a proxy moves over this.
    """

    positive: float
    negative: float
    rounds: int
    positive_step: float
    negative_step: float


class Partners(NamedTuple):
    """Patches that an anchor is compared with; it is none of its own.

    Attributes:
        positives: (n, N) those that it is pulled to.
        compared: (n, N) its denominator: positives and negatives.
        moved: (n,) how far its proxy moved in all: 1 - cosine, added up over rounds.
    """

    positives: Bool[Tensor, "n N"]
    compared: Bool[Tensor, "n N"]
    moved: Float[Tensor, "n"]


@torch.no_grad()
def find_partners(
    units: Float[Tensor, "N D"], anchors: Int64[Tensor, "n"], zones: Zones
) -> Partners:
    """Moves the proxies of some anchors, and sorts all patches by them.

    Args:
        units: (N, D) tokens of a batch, unit norm.
        anchors: (n,) which of them are anchors.
        zones: The circles, and how they change.

    Reference:
        PPAP (ECCV 2024), official code. It takes the mean over all tokens of the masked ones, which
        has the direction of the masked sum that is taken here.
    """
    proxies = units[anchors]
    cosines = proxies @ units.mT
    moved = units.new_zeros(len(anchors), 1)
    for _ in range(zones.rounds):
        inside = cosines > zones.positive - moved / zones.positive_step
        following = normalize(inside.to(units.dtype) @ units)
        moved = moved + 1 - (proxies * following).sum(1, keepdim=True)
        proxies, cosines = following, following @ units.mT
    others = torch.ones_like(cosines, dtype=torch.bool).scatter_(1, anchors[:, None], value=False)
    positives = (cosines > zones.positive - moved / zones.positive_step) & others
    negatives = (cosines < zones.negative + moved / zones.negative_step) & others
    return Partners(positives, positives | negatives, moved[:, 0])


def proxy_contrast(
    codes: Float[Tensor, "N D"],
    anchors: Int64[Tensor, "n"],
    partners: Partners,
    temperature: float,
) -> Float[Tensor, ""]:
    """Pulls anchors to their positives and away from all that they are compared with.

    Nothing of size (n, N) but the partners is kept for the gradient: it is computed again.

    Args:
        codes: (N, D), unit norm.
        anchors: (n,) which of them are anchors.
        partners: Of these.
        temperature: tau.

    Returns:
        The mean over anchors that have positives; 0 with a gradient of 0 where none has, for which
        the official code gives NaN.
    """
    loss: Tensor = checkpoint(
        _contrast,
        codes,
        anchors,
        partners,
        temperature,
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return loss


def _contrast(
    codes: Float[Tensor, "N D"],
    anchors: Int64[Tensor, "n"],
    partners: Partners,
    temperature: float,
) -> Float[Tensor, ""]:
    # Less the logit of equal codes, the largest that there is.
    logits = (codes[anchors] @ codes.mT - 1) / temperature
    sums = (logits.exp() * partners.compared).sum(1)
    logs = sums.clamp(min=torch.finfo(sums.dtype).tiny).log()
    counts = partners.positives.sum(1)
    pulled = ((logits - logs[:, None]) * partners.positives).sum(1) / counts.clamp(min=1)
    return -temperature / _BASE_TEMPERATURE * pulled.sum() / (counts > 0).sum().clamp(min=1)
