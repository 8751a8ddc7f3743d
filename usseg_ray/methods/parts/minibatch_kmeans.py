"""Mini-batch k-means over the feature maps of all workers, the same for any number of them.

PiCIE's clustering of an epoch: Lloyd's algorithm on the first joint batches, then one update per
joint batch. All that crosses workers are sums. Each image is assigned by itself and its float sums
become integers (fixed point) before anything is added to them, so the centroids do not depend, in
any bit, on how images are split over workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from usseg_ray.core.distributed import all_sum, shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.ops.counting import occurrences
from usseg_ray.ops.sampling import PointSample

# Sums of 2**29 cells of squared distance 4, the most between unit vectors, still fit in 63 bits.
_UNIT = 2.0**32
_PERTURBATION = 1 / 1024
# Bounds the memory that scores take, at K 100 and 80 x 80 cells to 80 MB.
_IMAGES_AT_ONCE = 32

Cells = Float[Tensor, "B C n"]
"""Features of images, a column per cell: as a network gives them, so nothing is copied."""
Batches = Sequence[Float[Tensor, "_ C n"]]
"""The same of several batches, which may differ in length."""


class Schedule(NamedTuple):
    """How a walk is clustered.

    Attributes:
        init_batches: Joint batches that the first centroids are found on.
        group_batches: Joint batches per later update; an unfinished last group is dropped.
        iterations: Lloyd iterations on the first batches.
    """

    init_batches: int
    group_batches: int = 1
    iterations: int = 20


class Clusters(NamedTuple):
    """What a clustering found.

    Attributes:
        centroids: (K, C) float32, not normalised.
        counts: (K,) int64, cells that each centroid is the mean of.
        distance: Mean squared distance of a cell to its centroid before each update, averaged over
            the updates.
    """

    centroids: Float[Tensor, "K C"]
    counts: Int64[Tensor, "K"]
    distance: float


# Which centroid is nearest: one matrix product an image.


def nearness(cells: Cells, centroids: Float[Tensor, "K C"]) -> Float[Tensor, "B K n"]:
    """Ranks centroids by Euclidean distance, largest nearest; one matrix product an image.

    Args:
        cells: (B, C, n).
        centroids: (K, C).

    Returns:
        (B, K, n), half of the cell's squared norm minus half of the squared distance.
    """
    offset = -0.5 * centroids.square().sum(1)[:, None]
    return torch.baddbmm(offset, centroids.expand(len(cells), -1, -1), cells)


def nearest(
    features: Float[Tensor, "B C h w"], centroids: Float[Tensor, "K C"]
) -> Int64[Tensor, "B h w"]:
    """Labels every cell with its nearest centroid.

    Args:
        features: (B, C, h, w).
        centroids: (K, C).

    Returns:
        (B, h, w) int64.
    """
    # torch finds the maximum and its place in a third of the time that the place alone takes.
    labels = nearness(features.flatten(2), centroids).max(1).indices
    return labels.view(len(features), *features.shape[2:])


# Sums over cells as integers, which add up to the same in any order, on any worker.


@dataclass
class CellSums:
    """Sums over assigned cells, in integers.

    Attributes:
        sums: (K, C) int64, fixed point.
        counts: (K,) int64, cells.
        distance: Scalar int64, fixed point, sum of squared distances.
    """

    sums: Int64[Tensor, "K C"]
    counts: Int64[Tensor, "K"]
    distance: Int64[Tensor, ""]

    @classmethod
    def empty(cls, centroids: Float[Tensor, "K C"]) -> "CellSums":
        """Starts with no cells."""
        sums = torch.zeros_like(centroids, dtype=torch.int64)
        return cls(sums, sums.new_zeros(len(sums)), sums.new_zeros(()))

    def add(self, cells: Cells, centroids: Float[Tensor, "K C"]) -> None:
        """Assigns cells to their nearest centroids and adds them.

        Args:
            cells: (B, C, n) float32.
            centroids: (K, C) float32.
        """
        for portion in cells.split(_IMAGES_AT_ONCE):
            own = portion.to(centroids.device)
            best, labels = nearness(own, centroids).max(1)
            self.counts += occurrences(labels, len(centroids))
            for image, nearest_of, label in zip(own, best, labels, strict=True):
                flat = image.flatten()
                # |x - c|^2 = |x|^2 - 2 nearness, over the image's cells.
                distance = flat.dot(flat) - 2 * nearest_of.sum(dtype=torch.float64)
                self.distance += _fixed(distance)
                self.sums += _fixed(_sums(image, label, len(centroids))).T

    def joint(self) -> "CellSums":
        """Adds up the workers' tallies; all workers call it together."""
        flat = torch.cat([self.sums.flatten(), self.counts, self.distance[None]])
        sums, counts, distance = all_sum(flat).split([self.sums.numel(), len(self.counts), 1])
        return CellSums(sums.view_as(self.sums), counts, distance[0])

    def means(self) -> Float[Tensor, "K C"]:
        """Returns the mean cell of every centroid, float64; 0 where there is none."""
        return self.sums.double() / _UNIT / self.counts.clamp(min=1)[:, None]

    def mean_distance(self) -> float:
        """Returns the mean squared distance of a cell."""
        return float(self.distance) / _UNIT / max(1, int(self.counts.sum()))


def _fixed(value: Tensor) -> Tensor:
    return (value.double() * _UNIT).round().long()


def _sums(image: Float[Tensor, "C n"], labels: Int64[Tensor, "n"], k: int) -> Float[Tensor, "C K"]:
    if image.is_cuda:
        # index_add_ adds in any order there.
        return image @ one_hot(labels, k).to(image.dtype)
    return image.new_zeros(len(image), k).index_add_(1, labels, image)


# The first centroids: Lloyd's algorithm, with no cluster left empty.


def lloyd(
    batches: Batches,
    starts: Float[Tensor, "K C"],
    iterations: int,
    generator: torch.Generator,
) -> Clusters:
    """Clusters the cells of all workers; all workers call it together.

    Args:
        batches: This worker's cells; there may be none.
        starts: (K, C) first centroids, equal on all workers.
        iterations: Updates.
        generator: Draws which clusters are split where others are empty; equal on all workers.

    Returns:
        The clusters, equal on all workers.

    Reference:
        Lloyd 1982; empty clusters as in faiss: a cluster is drawn in proportion to its size - 1
        and parted into two slightly different copies.
    """
    centroids = starts
    for _ in range(iterations):
        tally = _tally(batches, centroids)
        means = torch.where(tally.counts[:, None] > 0, tally.means(), centroids.double())
        centroids = split_into_empty(means, tally.counts, generator).float()
    tally = _tally(batches, centroids)
    return Clusters(centroids, tally.counts, tally.mean_distance())


def _tally(batches: Batches, centroids: Float[Tensor, "K C"]) -> CellSums:
    tally = CellSums.empty(centroids)
    for cells in batches:
        tally.add(cells, centroids)
    return tally.joint()


def split_into_empty(
    centroids: Float[Tensor, "K C"], counts: Int64[Tensor, "K"], generator: torch.Generator
) -> Float[Tensor, "K C"]:
    """Gives every empty cluster one half of another.

    Args:
        centroids: (K, C).
        counts: (K,) cells of each.
        generator: Draws the clusters to part.

    Returns:
        (K, C); empty clusters stay where no cluster has two cells.
    """
    parted, sizes = centroids.clone(), counts.cpu().clone()
    sign = torch.ones_like(centroids[0])
    sign[1::2] = -1
    for empty in (sizes == 0).nonzero()[:, 0].tolist():
        chances = (sizes - 1).clamp(min=0).double()
        if not chances.any():
            break
        donor = int(torch.multinomial(chances, 1, generator=generator))
        parted[empty] = parted[donor] * (1 + _PERTURBATION * sign)
        parted[donor] = parted[donor] * (1 - _PERTURBATION * sign)
        sizes[empty] = sizes[donor] // 2
        sizes[donor] -= sizes[empty]
    return parted


# The walk: the first batches are kept for `lloyd`, later groups move what it found.


class MiniBatchKMeans:
    """Clusters a walk over joint batches; all workers feed their parts of the same batches.

    Args:
        k: K.
        dim: Channels of a cell.
        schedule: How the walk is clustered.
        key: Keys the starts and the splits of empty clusters.
        device: Where centroids are; cells may lie elsewhere.
        starts: (K, C) first centroids; K of the first cells, drawn without replacement, if unset.
    """

    def __init__(
        self,
        k: int,
        dim: int,
        schedule: Schedule,
        *key: int | str,
        device: torch.device | None = None,
        starts: Float[Tensor, "K C"] | None = None,
    ) -> None:
        self.schedule = schedule
        self.centroids = torch.zeros(k, dim, device=device)
        self.counts = torch.zeros(k, dtype=torch.int64, device=device)
        self.distances: list[float] = []
        self._key = key
        self._starts = starts
        self._sample = PointSample(dim, k, device)
        self._kept: list[Tensor] = []
        self._fed = 0
        self._tally = CellSums.empty(self.centroids)

    @property
    def collecting(self) -> bool:
        """Whether the next batch is kept for the first centroids."""
        return self._fed < self.schedule.init_batches

    def feed(self, ids: Sequence[str], cells: Cells) -> None:
        """Takes this worker's part of the next joint batch.

        Args:
            ids: One name per image.
            cells: (B, C, n); those of the first batches are kept until all are there.

        Raises:
            UserError: The first batches have fewer cells than K.
        """
        collecting = self.collecting
        self._fed += 1
        # The first batches: kept, and the starts are sampled from them as they come.
        if collecting:
            for name, image in zip(ids, cells, strict=True):
                self._sample.add(image.T.to(self.centroids.device), *self._key, "start", name)
            self._kept.append(cells)
            if not self.collecting:
                self._initialise()
            return
        # The rest: only sums are kept, and a full group moves the centroids.
        self._tally.add(cells, self.centroids)
        if (self._fed - self.schedule.init_batches) % self.schedule.group_batches == 0:
            self._update()

    def finish(self) -> Clusters:
        """Ends the walk.

        Raises:
            UserError: The walk has fewer cells than K.
        """
        if self.collecting:
            self._initialise()
        distance = sum(self.distances) / len(self.distances)
        return Clusters(self.centroids, self.counts, distance)

    def _initialise(self) -> None:
        starts = self._draw_starts() if self._starts is None else self._starts
        clusters = lloyd(
            self._kept,
            starts.to(self.centroids.device),
            self.schedule.iterations,
            shared_generator(*self._key, "split"),
        )
        self.centroids, self.counts = clusters.centroids, clusters.counts
        self.distances.append(clusters.distance)
        self._kept = []

    def _draw_starts(self) -> Float[Tensor, "K C"]:
        k, rows = len(self.centroids), self._sample.gather()
        if len(rows) < k:
            raise UserError(
                f"k-means is asked for {k} groups, but the training images give only {len(rows)} "
                "feature cells. Lower num_clusters or give more training images."
            )
        return rows

    def _update(self) -> None:
        """Moves centroids towards their new cells: they stay the mean of all cells seen."""
        tally = self._tally.joint()
        self._tally = CellSums.empty(self.centroids)
        self.counts = self.counts + tally.counts
        rate = (tally.counts / (self.counts.double() + 1e-6))[:, None]
        moved = (1 - rate) * self.centroids.double() + rate * tally.means()
        self.centroids = torch.where(tally.counts[:, None] > 0, moved.float(), self.centroids)
        self.distances.append(tally.mean_distance())
