"""A worker's walks through a prepared set: training epochs, clustering passes, labelled splits.

Between the blocks of `reading` (numpy, made in many processes) and the batches of the engine
(torch, in one). Deterministic passes stay in memory where they fit, so that scoring every epoch
does not read and decode the same images again.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from usseg_ray.core.config import DataConfig, JitterConfig
from usseg_ray.core.keys import key_seed
from usseg_ray.core.types import Images, LabelledImages, Rows
from usseg_ray.core.views import Crops, FixedView, Frame
from usseg_ray.data.blocks import Block, Taker, batches_by_number, mix, regroup
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.plans import (
    Piece,
    WithPartners,
    cut,
    dealt_plan,
    evaluation_plan,
    row_groups,
    spread,
    training_plan,
)
from usseg_ray.data.reading import Showing, Stream, stream_here, stream_numbers


@dataclass
class KeptPasses:
    """Deterministic passes in memory; readers of one worker on one set may share them.

    Attributes:
        blocks: Split, showing, size of batches and whether rows are names alone -> the pass.
        num_bytes: Of all blocks.
    """

    blocks: dict[tuple[str, Showing, int, bool], list[Block]] = field(default_factory=dict)
    num_bytes: int = 0


class Reader:
    """A worker's view of a prepared set.

    Args:
        root: URI of the set.
        manifest: Its manifest.
        config: Splits, sizes, shuffling and memory.
        seed: Keys orders and crops.
        rank: This worker.
        world: Number of workers.
        stream: How pieces become blocks.
        frame: How labelled images are shown; as in clustering if unset: the centre square at
            `config.eval_size`.
        pair: How the two views of a training image are coloured, where a method wants pairs.
        names_only: Splits and views of which nobody needs pixels, since their features are stored:
            only the names of their rows are read.
        kept: Passes that were kept before, and where this reader keeps its own.
    """

    def __init__(
        self,
        root: str,
        manifest: Manifest,
        config: DataConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        stream: Stream = stream_here,
        frame: Frame | None = None,
        pair: JitterConfig | None = None,
        names_only: Collection[tuple[str, FixedView]] = (),
        kept: KeptPasses | None = None,
    ) -> None:
        self.root, self.manifest, self.config = root, manifest, config
        self.seed, self.rank, self.world = seed, rank, world
        self.neighbours: np.ndarray | None = None
        self._stream = stream
        self.frame = frame or Frame(config.eval_size)
        self._clustered = Frame(config.eval_size, "centre", self.frame.filter)
        self._square = self._clustered if self.frame.crop == "whole" else self.frame
        crops = crops_of(config)
        self._training = Showing(Frame(config.train_size), crops, seed=seed, pair=pair)
        self.names_only = names_only
        self._kept = kept or KeptPasses()

    def training(self, epochs: range, steps: int, batch_size: int) -> Iterator[Iterator[Images]]:
        """Streams whole training epochs without a pause between them.

        Args:
            epochs: Which epochs, for example those left after a resume.
            steps: Batches per epoch.
            batch_size: Rows per batch of this worker.

        Yields:
            One iterator of batches per epoch, to be walked to its end before the next.
        """
        rows = steps * batch_size
        plans = [
            training_plan(
                self.manifest,
                self.config.train_split,
                seed=self.seed,
                epoch=epoch,
                rows=rows,
                rank=self.rank,
                world=self.world,
            )
            for epoch in epochs
        ]
        pieces: Sequence[Piece] = [piece for plan in plans for piece in plan]
        if self.neighbours is not None:
            split = self.config.train_split
            pieces = WithPartners(pieces, self.manifest, split, self.neighbours, self.seed)
        taker = Taker(self._read(self.config.train_split, pieces, self._training))
        for epoch in epochs:
            generator = np.random.default_rng(key_seed(self.seed, "mix", epoch, self.rank))
            mixed = mix(taker, rows, self.config.shuffle_window, generator)
            yield map(self._cropped, regroup(mixed, batch_size))

    def crops(self, walk: int, batch_size: int) -> Iterator[Images]:
        """Walks the training split once, shuffled, in this worker's parts of joint batches.

        Args:
            walk: Keys order and views, as `Piece.walk` does.
            batch_size: Images of a joint batch.
        """
        parts = dealt_plan(
            self.manifest,
            self.config.train_split,
            seed=self.seed,
            walk=walk,
            batch_size=batch_size,
            rank=self.rank,
            world=self.world,
        )
        pieces = [piece for part in parts for piece in part]
        taker = Taker(self._read(self.config.train_split, pieces, self._training))
        for part in parts:
            rows = sum(piece.rows for piece in part)
            yield from map(self._cropped, regroup(taker.take(rows), rows))

    def passes(
        self, split: str, batch_size: int, only: Collection[str] | None = None
    ) -> Iterator[Images]:
        """Walks this worker's part of a split once, in order, framed as for clustering.

        Args:
            split: Which split.
            batch_size: Images in a batch; the last may be smaller.
            only: Ids of the images to show, all if unset; others come with them so that each
                lies in a batch as large as without.
        """
        showing = Showing(self._clustered)
        blocks = self._framed(split, showing)
        if only is not None:
            shown = _in_equal_batches(self.names(split), only, batch_size)
            blocks = (_picked(block, shown) for block in blocks)
        return (_images(block, split, showing) for block in regroup(blocks, batch_size))

    def names(self, split: str) -> list[str]:
        """Lists the ids of this worker's part of a split, in order; no image is read."""
        plan = evaluation_plan(self.manifest, split, self.rank, self.world)
        blocks = stream_numbers(self.root, plan, Showing(self._clustered))
        return [str(name) for block in blocks for name in block["id"]]

    def labelled(
        self, split: str, batch_size: int, *, square: bool = False
    ) -> Iterator[LabelledImages]:
        """Walks this worker's part of a split's labelled rows once, in order.

        The batches of all workers together are the same for any number of workers. Images that
        differ in shape come alone.

        Args:
            split: Which split.
            batch_size: Images in a batch.
            square: Whether to show squares where the protocol shows whole images.
        """
        showing = Showing(self._square if square else self.frame, labels=True)
        size = 1 if showing.whole else batch_size
        blocks = batches_by_number(self._framed(split, showing, size), size)
        return (_labelled(block, split, showing) for block in blocks)

    def labelled_rows(self, split: str, numbers: Iterable[int]) -> Iterator[LabelledImages]:
        """Reads single labelled rows of a split as squares, for pictures.

        Args:
            split: Which split.
            numbers: The rows' numbers in it.
        """
        groups = row_groups(self.manifest, split)
        showing = Showing(self._square, labels=True)
        for number in numbers:
            for block in stream_here(self.root, cut(groups, number, number + 1), showing):
                yield _labelled(block, split, showing)

    def few(self, split: str, count: int, batch_size: int) -> Iterator[Images]:
        """Reads this worker's share of a few images, pixels included.

        They lie evenly over their split and are framed as for clustering: the same images in the
        same batches in every run and for any number of workers.

        Args:
            split: Which split.
            count: Images of all workers; all that there are where there are fewer.
            batch_size: Images in a batch.
        """
        showing = Showing(self._clustered)
        groups = row_groups(self.manifest, split)
        chosen = spread(sum(piece.rows for piece in groups), count)
        batches = [
            chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)
        ]
        for batch in batches[self.rank :: self.world]:
            pieces = [piece for number in batch for piece in cut(groups, number, number + 1)]
            for block in regroup(stream_here(self.root, pieces, showing), len(batch)):
                yield _images(block, split, showing)

    def _read(self, split: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
        if self._by_name(split, showing):
            return stream_numbers(self.root, pieces, showing)
        return self._stream(self.root, pieces, showing)

    def _by_name(self, split: str, showing: Showing) -> bool:
        return not showing.labels and (split, showing.view) in self.names_only

    def _cropped(self, block: Block) -> Images:
        return _images(block, self.config.train_split, self._training)

    def _framed(self, split: str, showing: Showing, batch_size: int = 1) -> Iterator[Block]:
        """Reads a deterministic pass, from memory when an earlier one could be kept."""
        key = (split, showing, batch_size, self._by_name(split, showing))
        if key in self._kept.blocks:
            yield from self._kept.blocks[key]
            return
        plan = evaluation_plan(self.manifest, split, self.rank, self.world, batch_size)
        kept: list[Block] | None = []
        size, limit = 0, self.config.keep_mib * 2**20
        for block in self._read(split, plan, showing):
            if kept is not None:
                size += sum(_bytes(column) for column in block.values())
                kept = [*kept, block] if self._kept.num_bytes + size <= limit else None
            yield block
        # Only a walk that came to its end counts; others may be broken off at any block.
        if kept is not None and key not in self._kept.blocks:
            self._kept.blocks[key] = kept
            self._kept.num_bytes += size


def crops_of(config: DataConfig) -> Crops:
    """Says how training crops are cut."""
    return Crops(
        config.crops,
        config.crop_scale,
        config.flip,
        config.crop_ratios,
        config.crop_filter,
        config.crop_jpeg,
    )


def _in_equal_batches(names: list[str], only: Collection[str], batch_size: int) -> set[str]:
    """Adds images to some so that each lies in a batch as large as among all.

    What a network makes of an image depends on the size of its batch, in the last bit.
    """
    full = len(names) - len(names) % batch_size
    wanted = [name for name in names[:full] if name in only]
    others = (name for name in names[:full] if name not in only)
    filled = {*wanted, *islice(others, -len(wanted) % batch_size)}
    last = names[full:]
    return filled | set(last) if any(name in only for name in last) else filled


def _picked(block: Block, names: Collection[str]) -> Block:
    held = np.array([str(name) in names for name in block["id"]], dtype=bool)
    return {name: column[held] for name, column in block.items()}


def _bytes(column: np.ndarray) -> int:
    """Counts what a column of a block holds, arrays of arrays included."""
    return (
        sum(np.asarray(value).nbytes for value in column)
        if column.dtype == object
        else (column.nbytes)
    )


def _labelled(block: Block, split: str, showing: Showing) -> LabelledImages:
    labels = _tensor(block["label"]).long()
    return LabelledImages(_images(block, split, showing), labels, tuple(block["number"].tolist()))


def _images(block: Block, split: str, showing: Showing) -> Images:
    columns = {
        name: _tensor(block[name])
        for name in ("image", "positive", "first", "geometry")
        if name in block
    }
    rows = positive = None
    if (view := showing.view) is not None:
        rows = _rows(block, "", split, view)
        if "positive_number" in block:
            positive = _rows(block, "positive_", split, view)
    names = tuple(map(str, block["id"]))
    return Images(names, columns.pop("image"), **columns, rows=rows, positive_rows=positive)


def _rows(block: Block, prefix: str, split: str, view: FixedView) -> Rows:
    numbers = _tensor(block[f"{prefix}number"])
    key = f"{prefix}crop"
    crops = _tensor(block[key]) if key in block else torch.zeros_like(numbers)
    return Rows(split, view, numbers, crops)


def _tensor(column: np.ndarray) -> torch.Tensor:
    if column.dtype == object:
        column = np.stack(list(column))
    # Ray hands out read-only views of its object store, which torch does not take.
    return torch.from_numpy(np.require(column, requirements=["C", "W"]))
