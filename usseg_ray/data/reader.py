"""A worker's walks through a prepared set: training epochs, clustering passes, labelled splits.

Between the blocks of `reading` (numpy, made in many processes) and the batches of the engine
(torch, in one). Deterministic passes stay in memory where they fit, so that scoring every epoch
does not read and decode the same images again.
"""

from collections.abc import Iterator

import numpy as np
import torch

from usseg_ray.batch import Images, LabelledImages
from usseg_ray.config import DataConfig, JitterConfig
from usseg_ray.data.plans import dealt_plan, evaluation_plan, training_plan, with_partners
from usseg_ray.data.reading import Block, Showing, Stream, Taker, mix, regroup, stream_here
from usseg_ray.data.shards import Manifest
from usseg_ray.keys import key_seed


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
        pair: How the two views of a training image are coloured, where a method wants pairs.
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
        pair: JitterConfig | None = None,
    ) -> None:
        self.root, self.manifest, self.config = root, manifest, config
        self.seed, self.rank, self.world = seed, rank, world
        self.neighbours: np.ndarray | None = None
        self._stream = stream
        self._training = Showing(
            config.train_size,
            training=True,
            crop_scale=config.crop_scale,
            flip=config.flip,
            seed=seed,
            pair=pair,
        )
        self._kept: dict[tuple[str, bool], list[Block]] = {}
        self._kept_bytes = 0

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
        pieces = [piece for plan in plans for piece in plan]
        if self.neighbours is not None:
            split = self.config.train_split
            pieces = with_partners(pieces, self.manifest, split, self.neighbours, self.seed)
        taker = Taker(self._stream(self.root, pieces, self._training))
        for epoch in epochs:
            generator = np.random.default_rng(key_seed(self.seed, "mix", epoch, self.rank))
            mixed = mix(taker.take(rows), self.config.shuffle_window, generator)
            yield map(_images, regroup(mixed, batch_size))

    def crops(self, walk: int, batch_size: int) -> Iterator[Images]:
        """Walks the training split once, shuffled, in this worker's parts of joint batches.

        Args:
            walk: Keys order and views; an epoch's number gives that epoch's views.
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
        taker = Taker(self._stream(self.root, pieces, self._training))
        for part in parts:
            rows = sum(piece.rows for piece in part)
            yield from map(_images, regroup(taker.take(rows), rows))

    def passes(self, split: str, batch_size: int) -> Iterator[Images]:
        """Walks this worker's part of a split once, in order, framed as for evaluation."""
        return map(_images, regroup(self._framed(split, labels=False), batch_size))

    def labelled(self, split: str, batch_size: int) -> Iterator[LabelledImages]:
        """Walks this worker's part of a split's labelled rows once, in order."""
        for block in regroup(self._framed(split, labels=True), batch_size):
            labels = torch.from_numpy(block["label"].astype(np.int64))
            yield LabelledImages(_images(block), labels)

    def _framed(self, split: str, *, labels: bool) -> Iterator[Block]:
        """Reads a deterministic pass, from memory when an earlier one could be kept."""
        key = (split, labels)
        if key in self._kept:
            yield from self._kept[key]
            return
        plan = evaluation_plan(self.manifest, split, self.rank, self.world)
        showing = Showing(self.config.eval_size, labels=labels)
        kept: list[Block] | None = []
        size, limit = 0, self.config.keep_mib * 2**20
        for block in self._stream(self.root, plan, showing):
            if kept is not None:
                size += sum(column.nbytes for column in block.values())
                kept = [*kept, block] if self._kept_bytes + size <= limit else None
            yield block
        # Only a walk that came to its end counts; others may be broken off at any block.
        if kept is not None and key not in self._kept:
            self._kept[key] = kept
            self._kept_bytes += size


def _images(block: Block) -> Images:
    # Ray hands out read-only views of its object store, which torch does not take.
    columns = {
        name: torch.from_numpy(np.require(block[name], requirements=["C", "W"]))
        for name in ("image", "positive", "first", "geometry")
        if name in block
    }
    return Images(tuple(map(str, block["id"])), columns.pop("image"), **columns)
