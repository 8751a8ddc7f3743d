"""Facts about frozen features that settings follow from, measured without labels.

Thresholds of published methods are cosines of one network's tokens. Those of another network are
spread otherwise, and the same number means another share of pairs; so what is measured here is how
pairs of tokens are spread (`core.calibration`), on a few images and places that lie evenly over the
data set and over the image: nothing is drawn.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.core.calibration import SHARES, Cosines, Statistics
from usseg_ray.ops.neighbours import nearest_neighbours

IMAGES = 96
"""Training images that are looked at."""

_PLACES = 100
_TOKENS = 20_000


@torch.no_grad()
def measure_tokens(tokens: Float[Tensor, "B D h w"]) -> Statistics:
    """Measures the tokens of some training images.

    Cosines are centred as STEGO's and SmooSeg's losses do it: each token's mean cosine to the other
    image is taken off and the mean of all pairs put back. Channels may come in any order, and all
    tokens may be longer by one factor.

    Args:
        tokens: (B, D, h, w) of at least two images, in the order of the data set.

    Returns:
        The facts.
    """
    units = normalize(tokens.flatten(2).mT, dim=2)
    first, second = _places(units, 0), _places(units, 1)
    partners = nearest_neighbours(tokens.mean((2, 3)), 2)[:, 1]
    return Statistics(
        images=len(tokens),
        within=_levels(first @ second.mT),
        similar=_levels(first @ second[partners].mT),
        random=_levels(first @ second.roll(len(tokens) // 2, 0).mT),
        effective_rank=_effective_rank(tokens),
        position_share=_position_share(tokens),
    )


def measure_channels(
    tokens: Float[Tensor, "B D h w"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures the mean of each channel, and its deviation, 1 where that is none.

    Args:
        tokens: (B, D, h, w) of some training images.
    """
    exact = tokens.double()
    std = exact.std((0, 2, 3), correction=0)
    std = std.where(std > 0, 1.0)
    mean, deviation = (map(_short, one.tolist()) for one in (exact.mean((0, 2, 3)), std))
    return tuple(mean), tuple(deviation)


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _places(units: Float[Tensor, "B N D"], offset: int) -> Float[Tensor, "B n D"]:
    """Takes tokens at places that lie evenly over the image, others for another offset."""
    step = max(2, units.shape[1] // _PLACES)
    # A stride that is odd does not stay in one column of an even grid.
    return units[:, offset :: step + 1 - step % 2]


def _levels(cosines: Float[Tensor, "B n m"]) -> Cosines:
    centred = cosines - cosines.mean(2, keepdim=True) + cosines.mean()
    ordered = centred.double().flatten().sort(descending=True).values
    picked = (ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in SHARES)
    return Cosines(levels=tuple(round(float(value), 6) for value in picked))


def _effective_rank(tokens: Float[Tensor, "B D h w"]) -> float:
    rows = tokens.flatten(2).mT.flatten(0, 1).double()
    rows = rows[:: max(1, len(rows) // _TOKENS)]
    values = torch.linalg.eigvalsh(torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1]))
    shares = values.clamp(min=0) / values.clamp(min=0).sum().clamp(min=1e-30)
    return round(float(torch.exp(-torch.xlogy(shares, shares).sum())), 4)


def _position_share(tokens: Float[Tensor, "B D h w"]) -> float:
    exact = tokens.double()
    spread = (exact - exact.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).sum()
    places = exact.mean(0) - exact.mean((0, 2, 3))[:, None, None]
    return round(float(places.square().mean((1, 2)).sum() / spread.clamp(min=1e-30)), 4)
