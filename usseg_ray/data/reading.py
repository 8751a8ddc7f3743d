"""Which rows a worker reads, in which order, and what a row becomes.

A reading plan is a list of pieces (row ranges of Parquet row groups), a pure function of the
manifest, the seed, the epoch and the worker: training rows are split evenly, evaluation rows
exactly once each. `reader` walks plans through a *stream*: in this process (here) or as Ray Data
tasks (`pipeline`); both give the same rows in the same order. No torch here, see `transforms`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from usseg_ray.config import UserError
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.shards import Manifest, read_rows, resolve
from usseg_ray.data.transforms import evaluation_view, training_view, view_image, view_label
from usseg_ray.keys import key_seed

Block = dict[str, np.ndarray]
"""Rows of a piece: `id` (n,) str, `image` (n, 3, S, S) uint8, and `label` (n, S, S) int32."""


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of one row group, shown in one epoch."""

    shard: str
    row_group: int
    start: int
    stop: int
    epoch: int = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Showing:
    """How the rows of a plan are shown.

    Attributes:
        size: Side of the square that images become, pixels.
        training: Random crops if true, the evaluation frame otherwise.
        labels: Whether rows come with labels; those without one are then left out.
        crop_scale: Smallest share of an image's area in a training crop.
        flip: Whether training crops may be mirrored.
        seed: Keys the crops together with epoch and image id.
    """

    size: int
    training: bool = False
    labels: bool = False
    crop_scale: float = 1.0
    flip: bool = False
    seed: int = 0


Stream = Callable[[str, Sequence[Piece], Showing], Iterator[Block]]
"""Reads pieces of the set at a URI, in order."""


def row_groups(manifest: Manifest, split: str) -> list[Piece]:
    """Lists a split's row groups in the order of the manifest.

    Raises:
        UserError: The split does not exist.
    """
    return [
        Piece(shard.path, group, 0, rows)
        for shard in manifest.shards_of(split)
        for group, rows in enumerate(shard.row_groups)
    ]


def cut(pieces: Iterable[Piece], start: int, stop: int) -> list[Piece]:
    """Takes rows `start` to `stop` of a plan, cutting pieces where needed."""
    taken, position = [], 0
    for piece in pieces:
        first, last = max(start - position, 0), min(stop - position, piece.rows)
        if first < last:
            taken.append(
                Piece(
                    piece.shard,
                    piece.row_group,
                    piece.start + first,
                    piece.start + last,
                    piece.epoch,
                )
            )
        position += piece.rows
        if position >= stop:
            break
    return taken


def evaluation_plan(manifest: Manifest, split: str, rank: int, world: int) -> list[Piece]:
    """Gives a worker its part of a split: contiguous, every row in exactly one part."""
    pieces = row_groups(manifest, split)
    total = sum(piece.rows for piece in pieces)
    return cut(pieces, rank * total // world, (rank + 1) * total // world)


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
        The pieces, marked with the epoch.
    """
    groups = row_groups(manifest, split)
    order: list[Piece] = []
    needed, walk = rows * world, 0
    while sum(piece.rows for piece in order) < needed:
        generator = np.random.default_rng(key_seed(seed, "order", epoch, walk))
        order += [groups[i] for i in generator.permutation(len(groups)).tolist()]
        walk += 1
    marked = [Piece(p.shard, p.row_group, p.start, p.stop, epoch) for p in order]
    return cut(marked, rank * rows, (rank + 1) * rows)


def read_piece(root: str, piece: Piece, showing: Showing) -> Block:
    """Reads, decodes and frames the rows of a piece.

    Args:
        root: URI of the prepared set.
        piece: Which rows.
        showing: How they are shown.

    Returns:
        The block; rows without a label are missing where labels are wanted.

    Raises:
        UserError: A stored image does not decode, with its shard and id.
    """
    filesystem, path = resolve(root)
    table = read_rows(filesystem, f"{path}/{piece.shard}", piece.row_group)
    rows = table.slice(piece.start, piece.rows).to_pylist()
    if showing.labels:
        rows = [row for row in rows if row["label"] is not None]
    ids, images, labels = [], [], []
    for row in rows:
        try:
            image = decode_image(row["image"])
            label = decode_label(row["label"]) if showing.labels else None
        except ValueError as error:
            raise UserError(
                f"{piece.shard}: image {row['id']!r} does not decode ({error}); "
                "the shard is damaged: prepare the set again with --overwrite."
            ) from None
        height, width = image.shape[:2]
        if showing.training:
            view = training_view(
                np.random.default_rng(key_seed(showing.seed, "crop", piece.epoch, row["id"])),
                height,
                width,
                size=showing.size,
                scale=showing.crop_scale,
                flip=showing.flip,
            )
        else:
            view = evaluation_view(height, width, size=showing.size)
        ids.append(row["id"])
        images.append(view_image(image, view))
        if label is not None:
            labels.append(view_label(label, view))
    size = showing.size
    block = {
        "id": np.array(ids, dtype=object),
        "image": np.stack(images) if images else np.zeros((0, 3, size, size), np.uint8),
    }
    if showing.labels:
        block["label"] = np.stack(labels) if labels else np.zeros((0, size, size), np.int32)
    return block


def stream_here(root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
    """Reads pieces in this process, one after the other."""
    return (read_piece(root, piece, showing) for piece in pieces)


def regroup(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Cuts and joins blocks to `size` rows each; the last may be smaller."""
    held: list[Block] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block["id"])
        while count >= size:
            joined = _join(held)
            yield {name: column[:size] for name, column in joined.items()}
            held = [{name: column[size:] for name, column in joined.items()}]
            count -= size
    if count:
        yield _join(held)


def mix(blocks: Iterable[Block], window: int, generator: np.random.Generator) -> Iterator[Block]:
    """Shuffles rows within windows of `window` rows."""
    for block in regroup(blocks, window):
        order = generator.permutation(len(block["id"]))
        yield {name: column[order] for name, column in block.items()}


class Taker:
    """Takes exact numbers of rows off a stream of blocks."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = iter(blocks)
        self._left: Block | None = None

    def take(self, rows: int) -> Iterator[Block]:
        """Yields blocks of `rows` rows in all, cutting the last one where needed."""
        while rows:
            block = self._left if self._left is not None else next(self._blocks)
            count = len(block["id"])
            self._left = None
            if count > rows:
                self._left = {name: column[rows:] for name, column in block.items()}
                block = {name: column[:rows] for name, column in block.items()}
            rows -= min(count, rows)
            yield block


def _join(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
