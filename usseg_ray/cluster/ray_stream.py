"""Ray Data as the stream behind a `Reader`: pieces are read, decoded and framed in parallel tasks.

Each worker streams its own plan, so what it gets and in which order is decided by the plan and
not by which task ends first; training rows are split evenly and evaluation rows are exact without
any help from Ray's splitters (which drop remainders). A task becomes one block, and a stream is at
most a fixed number of tasks ahead of its reader: that bounds its memory, and keeps the processes
that read from waiting for the one that trains to give them work.
"""

import logging
import threading
import time
import uuid
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray.data
from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import PhysicalOperator
from ray.data._internal.execution.interfaces.physical_operator import OpTask
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.annotations import RayDeprecationWarning
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from usseg_ray.core.errors import UserError
from usseg_ray.data.blocks import Block, join
from usseg_ray.data.plans import Piece
from usseg_ray.data.reading import Showing, read_piece

PIECES_PER_TASK = 4
BLOCK_BYTES = 16 * 2**20
TASKS_AHEAD = 4
"""Tasks of a stream, for each that may run at a time, of which the reader has taken nothing."""

RESERVE_TIMEOUT_S = 60
END_TIMEOUT_S = 10
READER_THREADS = "iter_threaded"
"""Name of the threads in which Ray Data hands blocks to the reader."""

REST_S = 0.02

StreamItem = TypeVar("StreamItem")


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

    def _task(self, pieces: list[Piece], row_limit: int | None) -> ReadTask:
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
    blocks = (read_piece(root, piece, showing) for piece in pieces)
    if not showing.whole:
        # One block: Ray Data would copy each of several to make one of them, and the reader again.
        yield _table(join(list(blocks)))
        return
    for block in blocks:
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


class Ahead(BackpressurePolicy):  # type: ignore[misc]
    """Keeps a stream at most so many tasks ahead of its reader, and lets no other rule hold it.

    Ray Data's own rules take the memory that they share out from the placement group, where none
    can be reserved: they then run one task at a time, and that only when the reader waits. Tasks
    beyond those that may run wait in Ray's core, which gives a process the next at once.

    Args:
        tasks: How many, those that run and those that wait included.
        data_context: See Ray Data.
        topology: See Ray Data.
        resource_manager: See Ray Data.
    """

    def __init__(
        self, tasks: int, data_context: DataContext, topology: object, resource_manager: object
    ) -> None:
        super().__init__(data_context, topology, resource_manager)
        self._tasks = tasks

    def can_add_input(self, op: PhysicalOperator) -> bool:
        """Says whether another task may be handed to Ray's core."""
        waiting: int = self._topology[op].total_enqueued_output_blocks()
        running: int = op.num_active_tasks()
        return running + waiting < self._tasks


class Rest(ExecutionCallback):  # type: ignore[misc]
    """Lets a stream's scheduling loop rest between its steps.

    The loop runs in a thread of the training process. Where training is slower than reading, each
    reading task has a block ready that may not be taken yet, so the loop never waits: without a
    rest it takes a core, and the interpreter's lock, from the thread that trains.
    """

    def on_execution_step(self, executor: object) -> None:  # noqa: ARG002
        """Sleeps; several blocks may be taken in a step, so reading loses nothing by it."""
        time.sleep(REST_S)


class RayStream:
    """Streams plans through Ray Data tasks; a `reading.Stream`.

    Args:
        group: Name of the `reading_group` whose CPUs the tasks use.
        cpus: CPUs that this process may expect of it; a task takes at most one.
    """

    def __init__(self, group: str, cpus: float) -> None:
        self._group, self._cpus = group, cpus

    def __call__(self, root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
        """Reads pieces in parallel and yields their blocks in order."""
        if not pieces:
            return
        source = PieceSource(root, pieces, showing)
        with DataContext.current(self._context(showing)):
            dataset = ray.data.read_datasource(
                source, num_cpus=min(1.0, self._cpus), override_num_blocks=source.num_tasks
            )
        wanted = sum(piece.rows for piece in pieces)
        seen = 0
        batches = dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        with ended(dataset, batches) as blocks:
            for block in blocks:
                seen += len(block["id"])
                yield block
        if seen != wanted and not showing.labels:
            raise RuntimeError(f"Ray Data gave {seen} of {wanted} rows of {root}")

    def _context(self, showing: Showing) -> DataContext:
        context = DataContext(enable_progress_bars=False)
        context.execution_options.preserve_order = True
        context.custom_execution_callback_classes = [Rest]
        if showing.whole:
            # Rows of many sizes: Ray Data measures each block, and keeps to its own rules.
            context.target_max_block_size = BLOCK_BYTES
        else:
            context.target_max_block_size = None
            ahead = partial(Ahead, TASKS_AHEAD * max(1, int(self._cpus)))
            context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [ahead])
        strategy = PlacementGroupSchedulingStrategy(get_placement_group(self._group))
        with warnings.catch_warnings():
            # Deprecated for 2027 and the only way to give a stream resources of its own in the
            # Ray versions that pyproject.toml allows.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            context.scheduling_strategy = strategy
            context.scheduling_strategy_large_args = strategy
        return context


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Ray Data from telling of each execution, where a user would see it."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def ended(dataset: ray.data.Dataset, rows: Iterable[StreamItem]) -> Iterator[Iterator[StreamItem]]:
    """Ends the execution of a data set that is iterated over in the block, and its tasks.

    Where an iteration stops early, Ray's own end, which a dropped iterator starts, asks tasks to
    stop without insisting, and does not wait for them. This one keeps the iterator until it has
    killed them. It waits for the iteration's own threads too: one that asks Ray for a block after
    `ray.shutdown` ends the whole process.

    Args:
        dataset: What is executed.
        rows: What its iteration gives.

    Yields:
        The iterator to use in the block.
    """
    before = set(threading.enumerate())
    iterator = iter(rows)
    try:
        yield iterator
    finally:
        executor = dataset._current_executor
        if executor is not None:
            running = list[ray.ObjectRef]()
            for op in executor._topology:
                _note_killed(op, running)
            executor.shutdown(force=True)
            if running:
                ray.wait(running, num_returns=len(running), timeout=END_TIMEOUT_S)
        if isinstance(iterator, Generator):
            # Its own end reports to Ray, which may be gone when nothing holds it any more.
            iterator.close()
        for thread in set(threading.enumerate()) - before:
            if thread.name == READER_THREADS:
                thread.join(END_TIMEOUT_S)


def _note_killed(op: PhysicalOperator, running: list[ray.ObjectRef]) -> None:
    """Notes an operator's tasks at the moment when it kills them: before, it may begin others."""
    kill = op._cancel_active_tasks

    def noted(*, force: bool) -> None:
        running.extend(map(_end_of, op.get_active_tasks()))
        kill(force=force)

    op._cancel_active_tasks = noted


def _end_of(task: OpTask) -> ray.ObjectRef:
    # `ray.get` and Ray Data's own wait return at once for a generator that still runs.
    waitable = task.get_waitable()
    return waitable.completed() if isinstance(waitable, ray.ObjectRefGenerator) else waitable


@contextmanager
def reading_group(cpus: float, count: int) -> Iterator[str]:
    """Reserves CPUs for the reading tasks of all processes of a run.

    Without a reservation Ray Data divides the cluster anew among all streams of all trials, and
    leaves some without any; and training processes could take the CPUs that feed them.

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
