"""What can be said of a partition without labels: agreement, evenness, separation.

`label_free` judges trials by these, and `sweeps.criteria` compares their label maps. All of them
are finite for every input, also for a clustering that put everything into one part.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

_EPSILON = 1e-12
_NEAR = 1e-6
"""Distances below it are rounding: points of a collapsed code are not told apart."""


def contingency(one: Int64[Tensor, "n"], other: Int64[Tensor, "n"]) -> Int64[Tensor, "K L"]:
    """Counts points by their parts in two partitions.

    Args:
        one: (n,) part of every point, from 0; K is the largest plus one.
        other: (n,) of another partition of the same points; L likewise.

    Returns:
        (K, L) int64, on the device of the partitions.
    """
    if not len(one):
        return one.new_zeros((0, 0))
    rows, columns = int(one.max()) + 1, int(other.max()) + 1
    return torch.bincount(one * columns + other, minlength=rows * columns).view(rows, columns)


def adjusted_rand_index(one: Int64[Tensor, "n"], other: Int64[Tensor, "n"]) -> float:
    """Says how alike two partitions are, whatever their parts are called.

    Args:
        one: (n,) part of every point, from 0.
        other: (n,) of another partition of the same points.

    Returns:
        1 for the same partition, about 0 for independent ones, negative for less than chance.

    Reference:
        Hubert and Arabie, Comparing partitions, 1985.
    """
    table = contingency(one, other)
    both, rows, columns = (_pairs(counts) for counts in (table, table.sum(1), table.sum(0)))
    total = math.comb(len(one), 2)
    # Of two partitions that are both a single part, or both all single points, nothing is left
    # to chance.
    if not total or rows == columns == total or rows == columns == 0:
        return 1.0
    chance = rows * columns / total
    return (both - chance) / ((rows + columns) / 2 - chance)


def mutual_information(one: Int64[Tensor, "n"], other: Int64[Tensor, "n"]) -> float:
    """Says how much a point's part in one partition tells of its part in another.

    Args:
        one: (n,) part of every point, from 0; at least one point.
        other: (n,) of another partition of the same points.

    Returns:
        Nats: 0 for independent partitions or a single part, at most the entropy of either.
    """
    joint = contingency(one.cpu(), other.cpu()).double() / len(one)
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    # An empty cell adds nothing.
    gain = (joint.clamp(min=_EPSILON) / independent.clamp(min=_EPSILON)).log()
    return max(0.0, float((joint * gain).sum()))


def shares(parts: Int64[Tensor, "n"], num_parts: int) -> Float[Tensor, "K"]:
    """Returns each part's share of the points.

    Args:
        parts: (n,) part of every point, from 0; at least one point.
        num_parts: K.

    Returns:
        (K,) float64 on the CPU, summing to 1.
    """
    return torch.bincount(parts.cpu(), minlength=num_parts).double() / len(parts)


def evenness(share: Float[Tensor, "K"]) -> float:
    """Computes the entropy of shares relative to the largest that K parts can have.

    Args:
        share: (K,) float64, summing to 1; K is at least 2.

    Returns:
        0 where one part has all, 1 where all parts are equally large.
    """
    entropy = -(share * share.clamp(min=_EPSILON).log()).sum()
    return max(0.0, float(entropy) / math.log(len(share)))


def centroid_silhouette(points: Float[Tensor, "n d"], parts: Int64[Tensor, "n"]) -> float:
    """Computes the simplified silhouette: distances to centroids stand for those to all points.

    Points are compared by direction, as the methods' own clusters are. A centroid is the mean of
    the unit vectors of a part.

    Args:
        points: (n, d), any length; at least one.
        parts: (n,) part of every point, from 0.

    Returns:
        Mean of (b - a) / max(a, b) in [-1, 1], a the distance to the own centroid and b to the
        nearest other one; 0 for a single part.

    Reference:
        Rousseeuw, Silhouettes, 1987; with centroids: Hruschka et al., 2004.
    """
    _, part = parts.unique(return_inverse=True)
    count = int(part.max()) + 1
    if count < 2:
        return 0.0
    unit = normalize(points.double(), dim=1, eps=_EPSILON)
    sums = unit.new_zeros((count, unit.shape[1])).index_add_(0, part, unit)
    centroids = sums / torch.bincount(part, minlength=count)[:, None]
    # The faster mode subtracts large squares and cannot tell near points apart.
    distance = torch.cdist(unit, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    own = distance.gather(1, part[:, None])[:, 0]
    other = distance.scatter(1, part[:, None], torch.inf).min(1).values
    return float(((other - own) / torch.maximum(own, other).clamp(min=_NEAR)).mean())


def _pairs(counts: Int64[Tensor, "..."]) -> int:
    """Counts the pairs of points that share an entry; exact."""
    return int((counts * (counts - 1) // 2).sum())
