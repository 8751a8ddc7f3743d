"""Which rows a worker reads, and in which order.

A reading plan is a list of pieces (row ranges of Parquet row groups), a pure function of the
manifest, the seed, the epoch and the worker: training rows are split evenly, evaluation rows
exactly once each. `reading` turns pieces into pixels. No torch here, see `transforms`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Integer

from usseg_ray.core.keys import key_seed
from usseg_ray.data.manifest import Manifest


class Partner(NamedTuple):
    """An image to be shown beside another.

    Attributes:
        shard: Path of its shard below the set's root.
        row_group: From 0.
        row: Its row there.
        number: Its number in the split.
    """

    shard: str
    row_group: int
    row: int
    number: int


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of one row group, shown in one walk over their split.

    Attributes:
        shard: Path of the shard below the set's root.
        row_group: From 0.
        start: First row.
        stop: Row after the last.
        number: Number of the first row in its split.
        walk: Keys the views of training: the walks over the split before this one.
        partners: For every row an image to be shown beside it; empty where none is.
    """

    shard: str
    row_group: int
    start: int
    stop: int
    number: int = 0
    walk: int = 0
    partners: tuple[Partner, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


def row_groups(manifest: Manifest, split: str) -> list[Piece]:
    """Lists a split's row groups in the order of the manifest.

    Raises:
        UserError: The split does not exist.
    """
    pieces: list[Piece] = []
    number = 0
    for shard in manifest.shards_of(split):
        for group, rows in enumerate(shard.row_groups):
            pieces.append(Piece(shard.path, group, 0, rows, number))
            number += rows
    return pieces


def cut(pieces: Iterable[Piece], start: int, stop: int) -> list[Piece]:
    """Takes rows `start` to `stop` of a plan, cutting pieces where needed."""
    taken, position = [], 0
    for piece in pieces:
        first, last = max(start - position, 0), min(stop - position, piece.rows)
        if first < last:
            begin, end = piece.start + first, piece.start + last
            taken.append(replace(piece, start=begin, stop=end, number=piece.number + first))
        position += piece.rows
        if position >= stop:
            break
    return taken


def spread(total: int, count: int) -> list[int]:
    """Chooses rows that lie evenly over a split; all rows where there are fewer than asked for.

    A fourth as many are some of them, and so on.
    """
    if count >= total:
        return list(range(total))
    return [index * total // count for index in range(count)]


def evaluation_plan(
    manifest: Manifest, split: str, rank: int, world: int, batch_size: int = 1
) -> list[Piece]:
    """Gives a worker its part of a split: contiguous, every row in exactly one part.

    Args:
        manifest: The prepared set.
        split: Which split.
        rank: This worker.
        world: Number of workers.
        batch_size: Rows that are never parted: so many from the split's first row on, and so on.
    """
    pieces = row_groups(manifest, split)
    batches = -(-sum(piece.rows for piece in pieces) // batch_size)
    first, last = (part * batches // world * batch_size for part in (rank, rank + 1))
    return cut(pieces, first, last)


def training_plan(
    manifest: Manifest, split: str, *, seed: int, epoch: int, rows: int, rank: int, world: int
) -> list[Piece]:
    """Gives a worker `rows` rows of one epoch, as many as every other worker.

    Row groups are drawn without replacement, in a new order for every epoch; where the workers
    together need more rows than the split has, it is walked again in another order.

    Args:
        manifest: The prepared set.
        split: Training split.
        seed: Keys the order.
        epoch: From 0.
        rows: Rows per worker.
        rank: This worker.
        world: Number of workers.

    Returns:
        The pieces, marked with the walk, counted over all epochs.
    """
    groups = row_groups(manifest, split)
    walks = walks_in_epoch(manifest, split, rows * world)
    order = [
        replace(piece, walk=epoch * walks + walk)
        for walk in range(walks)
        for piece in _shuffled(groups, seed, epoch, walk)
    ]
    return cut(order, rank * rows, (rank + 1) * rows)


def walks_in_epoch(manifest: Manifest, split: str, rows: int) -> int:
    """Counts how many walks over a split an epoch begins that takes so many rows in all."""
    return -(-rows // sum(piece.rows for piece in row_groups(manifest, split)))


def dealt_plan(
    manifest: Manifest, split: str, *, seed: int, walk: int, batch_size: int, rank: int, world: int
) -> list[list[Piece]]:
    """Deals one shuffled walk over a split to the workers, batch by batch.

    The joint batches are the same for any number of workers; each worker gets its contiguous part.

    Args:
        manifest: The prepared set.
        split: Training split.
        seed: Keys the order.
        walk: Keys order and views.
        batch_size: Rows of a joint batch; the last may be smaller, and is left out where it has
            fewer rows than there are workers.
        rank: This worker.
        world: Number of workers.

    Returns:
        This worker's part of every batch, as many parts on every worker.
    """
    groups = row_groups(manifest, split)
    order = [replace(piece, walk=walk) for piece in _shuffled(groups, seed, walk, 0)]
    ends, parts = [0, *accumulate(piece.rows for piece in order)], []
    for start in range(0, ends[-1], batch_size):
        size = min(batch_size, ends[-1] - start)
        if size >= world:
            first, last = (start + part * size // world for part in (rank, rank + 1))
            begin = bisect_right(ends, first) - 1
            held = order[begin : bisect_left(ends, last)]
            parts.append(cut(held, first - ends[begin], last - ends[begin]))
    return parts


class WithPartners(Sequence[Piece]):
    """A plan whose every row has a partner, drawn from its nearest neighbours when it is read.

    Args:
        pieces: Rows of `split`.
        manifest: The prepared set.
        split: Their split.
        neighbours: (N, k) row numbers in the split, nearest first and the row itself before them.
        seed: Keys the draws, together with walk and row.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        manifest: Manifest,
        split: str,
        neighbours: Integer[np.ndarray, "N k"],
        seed: int,
    ) -> None:
        self._pieces, self._neighbours, self._seed = pieces, neighbours, seed
        self._groups = row_groups(manifest, split)
        self._starts = [piece.number for piece in self._groups]

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self._partnered(piece) for piece in self._pieces[index]]
        return self._partnered(self._pieces[index])

    def _partnered(self, piece: Piece) -> Piece:
        rows = range(piece.number, piece.number + piece.rows)
        return replace(piece, partners=tuple(self._partner(row, piece.walk) for row in rows))

    def _partner(self, row: int, walk: int) -> Partner:
        random = np.random.default_rng(key_seed(self._seed, "positive", walk, row))
        chosen = int(self._neighbours[row, random.integers(1, self._neighbours.shape[1])])
        group = self._groups[bisect_right(self._starts, chosen) - 1]
        return Partner(group.shard, group.row_group, chosen - group.number, chosen)


def _shuffled(groups: list[Piece], seed: int, epoch: int, walk: int) -> list[Piece]:
    generator = np.random.default_rng(key_seed(seed, "order", epoch, walk))
    return [groups[i] for i in generator.permutation(len(groups)).tolist()]
