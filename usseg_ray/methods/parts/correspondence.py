"""Correspondence of two maps, position by position, and the losses of STEGO and SmooSeg on it.

Between backbone and head: positions whose backbone features are alike shall get codes that are
alike, and the others codes that are not. STEGO clamps code cosines, so it needs them pair by pair
and samples positions. SmooSeg does not, so its sum over all pairs of positions collapses to a few
moments of each image and no pair is ever built.

Nothing here draws: places and permutations come as arguments. Means over a batch are those of the
worker's own part, so the loss of many workers is the mean of the losses of their parts.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

_EPSILON = 1e-10
_STABLE = 0.8


class Maps(NamedTuple):
    """What a loss compares.

    Attributes:
        features: (B, D, h, w) backbone features; get no gradient.
        codes: (B, C, h, w) codes.
    """

    features: Float[Tensor, "B D h w"]
    codes: Float[Tensor, "B C h w"]


class Draws(NamedTuple):
    """Random choices of STEGO's loss.

    Attributes:
        anchors: (B, S, S, 2) where anchors are read, see `sample`.
        others: (B, S, S, 2) where positives and negatives are read.
        negatives: (R, B) the image that serves each anchor as a negative, see `avoid_self`.
    """

    anchors: Float[Tensor, "B S S 2"]
    others: Float[Tensor, "B S S 2"]
    negatives: Int64[Tensor, "R B"]


class Shifts(NamedTuple):
    """Feature cosines above which codes attract each other and below which they repel."""

    intra: float
    inter: float
    negative: float


class Switches(NamedTuple):
    """Choices of the official code.

    Attributes:
        pointwise: Whether feature cosines are centred, see `centre`.
        zero_clamp: Whether negative code cosines count as 0.
        stabilise: Whether code cosines above 0.8 count as 0.8.
    """

    pointwise: bool = True
    zero_clamp: bool = True
    stabilise: bool = False


class Term(NamedTuple):
    """One kind of pairs.

    Attributes:
        loss: Scalar, mean over pairs.
        similarity: Mean cosine of codes, detached.
    """

    loss: Float[Tensor, ""]
    similarity: Float[Tensor, ""]


class PairTerms(NamedTuple):
    """STEGO's three kinds of pairs: within an image, with a neighbour, with another image."""

    intra: Term
    inter: Term
    negative: Term


def sample(
    maps: Float[Tensor, "B D h w"],
    coords: Float[Tensor, "Q I J 2"],
    source: Int64[Tensor, "Q"] | None = None,
) -> Float[Tensor, "Q D J I"]:
    """Reads maps at any places, bilinearly; places outside take the border.

    Args:
        maps: (B, D, h, w); fastest where channels are last in memory.
        coords: (Q, I, J, 2), x and y in [-1, 1], which are the centres of the outermost cells.
        source: (Q,) the map that each row of places reads; its own if unset (then Q = B). Naming
            it copies nothing, unlike `maps[source]`.

    Returns:
        (Q, D, J, I), channels last in memory. Entry (j, i) is read at `coords[:, i, j]`: the axes
        are swapped as in STEGO's official code.
    """
    size, dim, height, width = maps.shape
    count, columns, rows, _ = coords.shape
    if source is None:
        source = torch.arange(size, device=maps.device)
    corners, weights = _corners(coords.transpose(1, 2), height, width)
    corners = corners + (source * height * width)[:, None, None, None]
    table = maps.flatten(2).mT.reshape(-1, dim)
    values = embedding_bag(
        corners.view(-1, 4),
        table,
        mode="sum",
        per_sample_weights=weights.view(-1, 4).to(table.dtype),
    )
    return values.view(count, rows, columns, dim).permute(0, 3, 1, 2)


def _corners(
    coords: Float[Tensor, "Q J I 2"], height: int, width: int
) -> tuple[Int64[Tensor, "Q J I 4"], Float[Tensor, "Q J I 4"]]:
    """Finds the four cells around each place, numbered by rows, and their bilinear weights."""
    x = ((coords[..., 0] + 1) / 2 * (width - 1)).clamp(0, width - 1)
    y = ((coords[..., 1] + 1) / 2 * (height - 1)).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    x, y = x - left, y - top
    cells = [row * width + column for row in (top, bottom) for column in (left, right)]
    weights = [vertical * side for vertical in (1 - y, y) for side in (1 - x, x)]
    return torch.stack(cells, dim=-1).long(), torch.stack(weights, dim=-1)


def avoid_self(permutations: Int64[Tensor, "R B"]) -> Int64[Tensor, "R B"]:
    """Turns permutations into choices of another image for each image.

    Args:
        permutations: (R, B) numbers 0 to B - 1 in any order.

    Returns:
        (R, B). Whoever got itself gets the next image, so a row may hold an image twice. In a batch
        of one image that is the image itself: it is then its own negative, as in the official code.

    Reference:
        STEGO's and SmooSeg's official code, `super_perm`.
    """
    size = permutations.shape[1]
    own = torch.arange(size, device=permutations.device)
    return torch.where(permutations == own, permutations + 1, permutations) % size


def unit_rows(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N D"]:
    """Lists the positions of maps as vectors of unit norm; 0 stays 0."""
    return normalize(maps.flatten(2).mT, dim=2, eps=_EPSILON)


def centre(cosines: Float[Tensor, "B N M"]) -> Float[Tensor, "B N M"]:
    """Takes each row's mean off and puts the mean of all rows of all images back.

    Args:
        cosines: (B, N, M) of N positions to M others.

    Returns:
        (B, N, M) of the same mean. A position that is like everything else no longer attracts
        everything.

    Reference:
        STEGO (ICLR 2022), spatial centring; `pointwise` in the official code, which takes the mean
        over the second image's positions only.
    """
    return cosines - cosines.mean(2, keepdim=True) + cosines.mean()


def pair_losses(
    features: Float[Tensor, "B N M"],
    codes: Float[Tensor, "B N M"],
    shift: float,
    switches: Switches,
) -> Float[Tensor, "B N M"]:
    """Computes STEGO's loss of every pair of positions.

    Args:
        features: (B, N, M) feature cosines, not centred.
        codes: (B, N, M) code cosines.
        shift: b.
        switches: Choices.

    Returns:
        (B, N, M), minus (F - b) max(S, 0) with the default switches.

    Reference:
        STEGO (ICLR 2022), correspondence loss with spatial centring and 0-clamp.
    """
    if switches.pointwise:
        features = centre(features)
    if switches.zero_clamp:
        codes = codes.clamp(min=0)
    if switches.stabilise:
        codes = codes.clamp(max=_STABLE)
    return codes * (shift - features)


def correspondence_terms(
    anchors: Maps, positives: Maps, draws: Draws, shifts: Shifts, switches: Switches
) -> PairTerms:
    """Computes the three terms of STEGO's loss at sampled positions.

    Args:
        anchors: Features and codes of a batch.
        positives: Those of one neighbour of each image.
        draws: Where to look, and at which negatives.
        shifts: b of each term.
        switches: Choices.

    Returns:
        The terms, to be weighted and added. Each row of `draws.negatives` is centred by itself.

    Reference:
        STEGO (ICLR 2022), correspondence loss; official code: `positives` and negatives are read
        at the same places, and an image is paired with itself at equal ones.
    """
    own = torch.arange(draws.negatives.shape[1], device=draws.negatives.device)
    # Anchors and negatives are read from the same maps: at once, so that their gradient is too.
    here, *others = _unit_samples(
        anchors,
        torch.stack([draws.anchors, *[draws.others] * len(draws.negatives)]),
        torch.cat([own[None], draws.negatives]),
    )
    (there,) = _unit_samples(positives, draws.others[None], own[None])
    negatives = [_term(here, other, shifts.negative, switches) for other in others]
    return PairTerms(
        intra=_term(here, here, shifts.intra, switches),
        inter=_term(here, there, shifts.inter, switches),
        negative=Term(*(torch.stack(parts).mean() for parts in zip(*negatives, strict=True))),
    )


class _Rows(NamedTuple):
    """Sampled positions: (B, N, D) features and (B, N, C) codes, both of unit norm."""

    features: Float[Tensor, "B N D"]
    codes: Float[Tensor, "B N C"]


def _unit_samples(
    maps: Maps, coords: Float[Tensor, "R B S S 2"], source: Int64[Tensor, "R B"]
) -> list[_Rows]:
    """Reads maps R times, B positions sets each."""
    coords, images = coords.flatten(0, 1), source.flatten()
    with torch.no_grad():
        features = unit_rows(sample(maps.features, coords, images))
    codes = unit_rows(sample(maps.codes, coords, images))
    chunks = (part.split(source.shape[1]) for part in (features, codes))
    return [_Rows(*pair) for pair in zip(*chunks, strict=True)]


def _term(first: _Rows, second: _Rows, shift: float, switches: Switches) -> Term:
    codes = first.codes @ second.codes.mT
    losses = pair_losses(first.features @ second.features.mT, codes, shift, switches)
    return Term(losses.mean(), codes.detach().mean())


class MapMoments(NamedTuple):
    """Means over the positions of an image, of unit vectors; all that SmooSeg's loss asks for.

    Attributes:
        joint: (B, D, K) of the outer product of feature and code.
        features: (B, D).
        codes: (B, K).
    """

    joint: Float[Tensor, "B D K"]
    features: Float[Tensor, "B D"]
    codes: Float[Tensor, "B K"]

    def of(self, images: Int64[Tensor, "B"]) -> "MapMoments":
        """Returns the moments of other images of the batch."""
        return MapMoments(*(part[images] for part in self))


def moments(maps: Maps) -> MapMoments:
    """Computes the moments of every image.

    Args:
        maps: Features, which get no gradient, and codes.

    Returns:
        Moments of their unit vectors.
    """
    features = unit_rows(maps.features.detach())
    codes = unit_rows(maps.codes)
    joint = features.mT @ codes / features.shape[1]
    return MapMoments(joint, features.mean(1), codes.mean(1))


def smoothness(
    first: MapMoments, second: MapMoments, shift: float, *, pointwise: bool = True
) -> Float[Tensor, ""]:
    """Computes the mean over all pairs of positions of (W - b)(1 - S), without building a pair.

    W are the feature cosines, S those of codes. With unit features f, g and codes y, z the sum of
    (f.g)(y.z) over all pairs is the product of the two sums of outer products f y' and g z', which
    costs N D K instead of N N D operations.

    Args:
        first: Moments of B images.
        second: Moments of B images, each paired with the one of `first` at its place.
        shift: b.
        pointwise: Whether W is centred, see `centre`.

    Returns:
        Scalar; the gradient reaches both codes.

    Reference:
        SmooSeg (NeurIPS 2023), smoothness prior. Equal to the official code up to rounding.
    """
    feature_means = (first.features * second.features).sum(1)
    code_means = (first.codes * second.codes).sum(1)
    if not pointwise:
        products = (first.joint * second.joint).sum((1, 2))
        return (feature_means - products - shift * (1 - code_means)).mean()
    overall = feature_means.mean()
    centred = second.joint - second.features[:, :, None] * second.codes[:, None]
    products = (first.joint * centred).sum((1, 2))
    return ((overall - shift) * (1 - code_means) - products).mean()
