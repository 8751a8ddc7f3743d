"""How fast Ray streams images, beside a torch `DataLoader` with the same work to do.

Off an image's path. Both are a `reading.Stream` below the same reader, with as many processes that
read, decode and crop the same rows; what is compared is how rows get from these processes to
batches. Pictures repeat, rows do not.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import psutil
import ray
import torch
from torch.utils.data import DataLoader, Dataset

from usseg_ray.bench.inputs import scratch, write_generated_set
from usseg_ray.bench.meter import Measure
from usseg_ray.cluster.join import local_ray
from usseg_ray.cluster.ray_stream import RayStream, reading_group
from usseg_ray.core.config import DataConfig
from usseg_ray.core.machine import PeakMemory
from usseg_ray.data.blocks import Block
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.plans import Piece
from usseg_ray.data.reader import Reader
from usseg_ray.data.reading import Showing, Stream, read_piece

ROWS, BATCH = 20_000, 32
LONGEST_GAP_S = 1.0

_FIRST, _LAST = 0.2, 0.9
_EPOCHS = 2
_MB = 1e6
_TURN = 32
"""Batches that are taken in turn, at first untimed, until the other side rests, and then timed."""


def streaming_measures(
    jpegs: Sequence[bytes], rows: int = ROWS, processes: int | None = None
) -> Iterator[Measure]:
    """Streams two epochs through Ray and through a `DataLoader`, in turns.

    Args:
        jpegs: Files of 480x360 pixels, repeated for all rows.
        rows: Rows of both epochs together.
        processes: How many read; as many as there are CPUs if unset.

    Yields:
        Rows per second between 20 and 90 % of the rows; the gap between the epochs, where batches
        are taken as fast as they come, and where a training step takes twice the time that reading
        its batch does; and peak memory in the latter, where streams are as far ahead as they go.
    """
    torch.set_num_threads(1)
    with scratch() as folder, local_ray():
        root = str(folder)
        manifest = write_generated_set(
            folder, {DataConfig().train_split: rows // _EPOCHS}, jpegs=jpegs
        )
        count = processes or int(ray.cluster_resources()["CPU"])
        with reading_group(count, 1) as group:
            stream = RayStream(group, count)
            ours, theirs = (_Side(root, manifest, one, rows) for one in (stream, _Loader(count)))
            _race(ours, theirs)
            with PeakMemory() as memory:
                trained = _Side(root, manifest, stream, rows // 8)
                trained.take(trained.batches, step_s=2 * BATCH / ours.rate)
                trained.close()
    here = f"Ray, {count} processes"
    row, gap, longest = partial(Measure, "io"), "gap between epochs", "longest wait inside one"
    yield row(here, ours.rate, "rows/s", f"DataLoader, {count} processes", theirs.rate)
    yield row(f"{gap}, full speed", ours.gap, "s", longest, ours.longest_wait)
    yield row(f"{gap}, training", trained.gap, "s", "the bar", LONGEST_GAP_S)
    peak, most = memory.peak_bytes / _MB, psutil.virtual_memory().total / _MB
    yield row("peak of all processes, training", peak, "MB", "memory here", most)


class _Side:
    """Takes batches of two epochs from a stream and notes how long each was waited for."""

    def __init__(self, root: str, manifest: Manifest, stream: Stream, rows: int) -> None:
        self._steps = rows // _EPOCHS // BATCH
        self.batches = _EPOCHS * self._steps
        self._waits = list[float]()
        self._timed_rows, self._timed_seconds = 0, 0.0
        reader = Reader(root, manifest, DataConfig(), stream=stream)
        epochs = reader.training(range(_EPOCHS), self._steps, BATCH)
        self._taken = (batch for epoch in epochs for batch in epoch)

    def take(self, count: int, *, timed: bool = False, step_s: float = 0.0) -> None:
        """Takes `count` batches, or as many as are left."""
        start = asked = time.perf_counter()
        before = len(self._waits)
        for _ in itertools.islice(self._taken, count):
            self._waits.append(time.perf_counter() - asked)
            # In place of a training step, which would take the CPUs that read.
            time.sleep(step_s)
            asked = time.perf_counter()
        if timed:
            self._timed_seconds += asked - start
            self._timed_rows += BATCH * (len(self._waits) - before)

    def close(self) -> None:
        """Ends the processes that read."""
        self._taken.close()

    @property
    def rate(self) -> float:
        """Rows per second of what was timed."""
        return self._timed_rows / self._timed_seconds

    @property
    def gap(self) -> float:
        """Seconds between the last batch of an epoch and the first of the next."""
        return self._waits[self._steps]

    @property
    def longest_wait(self) -> float:
        """Seconds for a batch that is not the first of its epoch."""
        return max(wait for step, wait in enumerate(self._waits) if step % self._steps)


def _race(*sides: _Side) -> None:
    """Walks sides to their ends in turns, so that what slows the machine for a while meets all."""
    turns = sides[0].batches // (2 * _TURN)
    for turn in range(turns + 1):
        for side in sides:
            side.take(_TURN)
            side.take(_TURN, timed=_FIRST * turns <= turn < _LAST * turns)
    for side in sides:
        side.close()


class _Loader:
    """Streams plans through a `DataLoader`; a `reading.Stream`."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
        """Reads pieces in parallel and yields their blocks in order."""
        loader = DataLoader(
            _Pieces(root, pieces, showing),
            batch_size=None,
            num_workers=self._count,
            # Forked from a process with Ray's threads they could hang.
            multiprocessing_context="spawn",
        )
        for block in loader:
            yield {
                name: column.numpy() if isinstance(column, torch.Tensor) else column
                for name, column in block.items()
            }


class _Pieces(Dataset[dict[str, Any]]):
    """A reading plan as a `DataLoader` wants it: tensors, which it hands over without a copy."""

    def __init__(self, root: str, pieces: Sequence[Piece], showing: Showing) -> None:
        self._root, self._pieces, self._showing = root, pieces, showing

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> dict[str, Any]:
        block = read_piece(self._root, self._pieces[index], self._showing)
        return {
            name: column if column.dtype == object else torch.from_numpy(column)
            for name, column in block.items()
        }
