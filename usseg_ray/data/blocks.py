"""Rows on their way from reading to batches: blocks of columns, joined, cut and shuffled.

A stream yields blocks of whatever size its pieces have (`reading`); `reader` makes batches of them.
No torch here, see `transforms`.
"""

from collections.abc import Iterable, Iterator

import numpy as np

Block = dict[str, np.ndarray]
"""Rows of a piece: `id` (n,) str, `number` (n,) int64, the row's in its split, and `image` (n, 3,
h, w) uint8. Where wanted `label` (n, H, W) int32; `crop` (n,) int64, which of its image's fixed
crops a row is; `positive`, `positive_number` and `positive_crop`, the same of a partner; `first`
(n, 3, 2h, 2w) uint8 and `geometry` (n, 4) float64. Of whole frames, which differ in shape, `image`
and `label` are (n,) arrays of arrays."""


def regroup(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Cuts and joins blocks to `size` rows each; the last may be smaller."""
    held: list[Block] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block["id"])
        while count >= size:
            joined = join(held)
            yield {name: column[:size] for name, column in joined.items()}
            held = [{name: column[size:] for name, column in joined.items()}]
            count -= size
    if count:
        yield join(held)


def batches_by_number(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Groups rows by their number in the split: 0 to `size` - 1, and so on.

    What a batch holds does not depend on how many workers share the split, nor on which rows are
    missing; a batch of which no row is there is none.
    """
    held: list[Block] = []
    batch = -1
    for block in blocks:
        batches = block["number"] // size
        for found in dict.fromkeys(batches.tolist()):
            if held and found != batch:
                yield join(held)
                held = []
            batch = found
            held.append({name: column[batches == found] for name, column in block.items()})
    if held:
        yield join(held)


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


def mix(taker: Taker, rows: int, window: int, generator: np.random.Generator) -> Iterator[Block]:
    """Shuffles the next `rows` rows within windows of `window` rows."""
    while rows:
        size = min(window, rows)
        yield _placed(taker.take(size), generator.permutation(size))
        rows -= size


def _placed(blocks: Iterable[Block], order: np.ndarray) -> Block:
    """Joins blocks in another order, row by row as they come, so that none has to be kept."""
    places, placed, first = np.argsort(order), Block(), 0
    for block in blocks:
        there = places[first : first + len(block["id"])]
        for name, column in block.items():
            if name not in placed:
                placed[name] = np.empty((len(order), *column.shape[1:]), column.dtype)
            placed[name][there] = column
        first += len(there)
    return placed


def join(blocks: list[Block]) -> Block:
    """Puts blocks of the same columns one after the other; a single one is not copied."""
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
