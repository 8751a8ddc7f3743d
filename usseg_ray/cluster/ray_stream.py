"""A plan as a source of Ray Data, and the stream of it behind a `Reader`, in parallel tasks.

Each worker streams its own plan, so what it gets and in which order is decided by the plan and not
by which task ends first. A stream is a fixed number of tasks ahead of its reader: that bounds its
memory, and keeps the processes that read from waiting for the one that trains to give them work.

Its tasks are Ray Data's, but it starts them itself, in CPUs reserved for reading: Ray Data has no
lasting way to be given any (docs/data.md, "Streams").
"""

import uuid
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayTaskError
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from usseg_ray.core.errors import UserError
from usseg_ray.data.blocks import Block
from usseg_ray.data.plans import Piece
from usseg_ray.data.reading import Showing, read_piece

PIECES_PER_TASK = 4
BLOCK_BYTES = 16 * 2**20
TASKS_AHEAD = 4
"""Tasks of a stream, for each that may run at a time, of which the reader has taken nothing."""

RESERVE_TIMEOUT_S = 60
END_TIMEOUT_S = 10


class PieceSource(Datasource):  # type: ignore[misc]
    """A reading plan as a Ray Data source, one task per few pieces.

    Tasks take at most `PIECES_PER_TASK`, and no more than come to `BLOCK_BYTES`.

    Args:
        root: URI of the prepared set.
        pieces: What to read, in order.
        showing: How rows are shown.
    """

    def __init__(self, root: str, pieces: Sequence[Piece], showing: Showing) -> None:
        super().__init__()
        self._root, self._showing = root, showing
        self._portions = list(self._cut(pieces))

    @property
    def num_tasks(self) -> int:
        """Number of reading tasks."""
        return len(self._portions)

    def estimate_inmemory_data_size(self) -> int:
        """Returns the decoded size in bytes."""
        return sum(self._bytes(piece) for portion in self._portions for piece in portion)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Gives the tasks, whatever parallelism Ray would like."""
        return [self._task(portion, per_task_row_limit) for portion in self._portions]

    def tasks(self) -> Iterator[ReadTask]:
        """Gives the tasks one after the other: a run of many epochs has very many."""
        return map(self._task, self._portions)

    def _task(self, pieces: list[Piece], row_limit: int | None = None) -> ReadTask:
        metadata = BlockMetadata(
            num_rows=sum(piece.rows for piece in pieces) * self._showing.views,
            size_bytes=sum(map(self._bytes, pieces)),
            input_files=None,
            exec_stats=None,
        )
        read = partial(_read, self._root, pieces, self._showing)
        return ReadTask(read, metadata, per_task_row_limit=row_limit)

    def _cut(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        portion, held = list[Piece](), 0
        for piece in pieces:
            size = self._bytes(piece)
            if portion and (len(portion) == PIECES_PER_TASK or held + size > BLOCK_BYTES):
                yield portion
                portion, held = [], 0
            portion.append(piece)
            held += size
        if portion:
            yield portion

    def _bytes(self, piece: Piece) -> int:
        images = 1 + (4 if self._showing.pair else 0) + bool(piece.partners)
        row = self._showing.frame.size**2 * (3 * images + (4 if self._showing.labels else 0))
        return piece.rows * self._showing.views * row


def _read(root: str, pieces: list[Piece], showing: Showing) -> Iterable[pa.Table]:
    for piece in pieces:
        block = read_piece(root, piece, showing)
        if len(block["id"]):
            yield _table(block)


def _table(block: Block) -> pa.Table:
    from ray.data.extensions import (  # noqa: PLC0415
        ArrowTensorArray,
        ArrowVariableShapedTensorArray,
    )

    columns: dict[str, Any] = {"id": pa.array(block["id"].tolist(), pa.string())}
    for name in block.keys() - {"id"}:
        column = block[name]
        kind = ArrowVariableShapedTensorArray if column.dtype == object else ArrowTensorArray
        columns[name] = kind.from_numpy(column)
    return pa.table(columns)


class RayStream:
    """Streams plans through tasks of a `PieceSource`; a `reading.Stream`.

    Args:
        group: Name of the `reading_group` whose CPUs the tasks use.
        cpus: CPUs that this process may expect of it; a task takes at most one.
    """

    def __init__(self, group: str, cpus: float) -> None:
        self._group, self._cpus = group, cpus

    def __call__(
        self, root: str, pieces: Sequence[Piece], showing: Showing
    ) -> Generator[Block, None, None]:
        """Reads pieces in parallel and yields their blocks in order.

        Raises:
            RuntimeError: There came other rows than were asked for.
        """
        if not pieces:
            return
        group = PlacementGroupSchedulingStrategy(get_placement_group(self._group))
        read = read_task.options(num_cpus=min(1.0, self._cpus), scheduling_strategy=group)
        begun = map(read.remote, PieceSource(root, pieces, showing).tasks())
        # Whole images may be large: as many tasks read ahead of the reader as may run at a time.
        ahead = max(1, int(self._cpus)) * (1 if showing.whole else TASKS_AHEAD)
        waiting, seen = deque[ray.ObjectRef](), 0
        try:
            waiting.extend(islice(begun, ahead))
            while waiting:
                with users_mistakes():
                    blocks = ray.get(waiting[0])
                waiting.popleft()
                waiting.extend(islice(begun, 1))
                if waiting:
                    # What other nodes have read comes here before it is asked for.
                    ray.wait(list(waiting), timeout=0)
                for block in blocks:
                    seen += len(block["id"])
                    yield block
        finally:
            _end(list(waiting))
        wanted = sum(piece.rows for piece in pieces)
        if seen != wanted and not showing.labels:
            raise RuntimeError(f"Ray gave {seen} of {wanted} rows of {root}")


def read_blocks(task: ReadTask) -> list[Block]:
    """Reads what a task of a `PieceSource` does."""
    return [BlockAccessor.for_block(table).to_numpy() for table in task()]


read_task = ray.remote(read_blocks)


def _end(tasks: list[ray.ObjectRef]) -> None:
    """Waits for the ends of tasks that were begun; there are none left where Ray is gone.

    They take seconds, and are not cancelled: where one ends in the same moment, Ray (2.60) aborts
    the process that cancels it, with force or without.
    """
    if not tasks or not ray.is_initialized():
        return
    ray.wait(tasks, num_returns=len(tasks), timeout=END_TIMEOUT_S, fetch_local=False)


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Brings back as what it is what the user can mend: a damaged image, or a full disk.

    Ray wraps the error of a task or an actor in errors of its own, one for each task that waited
    for the one that failed; and an `OSError`'s number is lost in them.

    Raises:
        UserError: The task's own.
        OSError: The same.
    """
    try:
        yield
    except RayTaskError as error:
        cause: BaseException = error
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        if isinstance(cause, OSError):
            raise cause from None
        raise


@contextmanager
def reading_group(cpus: float, count: int) -> Iterator[str]:
    """Reserves CPUs for the reading tasks of all processes of a run.

    Without a reservation training processes could take the CPUs that feed them, and wait for ever.

    Args:
        cpus: CPUs for the reading tasks of one training process.
        count: Training processes at a time.

    Yields:
        The group's name, for `RayStream`; it is given up at the end of the block.

    Raises:
        UserError: The CPUs are not free.
    """
    name = f"usseg-reading-{uuid.uuid4().hex}"
    group = placement_group([{"CPU": cpus}] * count, strategy="SPREAD", name=name)
    try:
        if not group.wait(RESERVE_TIMEOUT_S):
            raise UserError(
                f"{count} x {cpus:g} CPUs for reading tasks were not free within "
                f"{RESERVE_TIMEOUT_S} s (the cluster has {ray.cluster_resources().get('CPU', 0):g} "
                "CPUs): is another sweep running? Lower resources.data_cpus_per_worker."
            )
        yield name
    finally:
        remove_placement_group(group)
