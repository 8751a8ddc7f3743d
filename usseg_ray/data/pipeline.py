"""Ray Data as the stream behind a `Reader`: pieces are read, decoded and framed in parallel tasks.

Each worker streams its own plan, so what it gets and in which order is decided by the plan and
not by which task ends first; training rows are split evenly and evaluation rows are exact without
any help from Ray's splitters (which drop remainders).
"""

import logging
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.annotations import RayDeprecationWarning
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from usseg_ray.config import UserError
from usseg_ray.data.blocks import Block
from usseg_ray.data.plans import Piece
from usseg_ray.data.reading import Showing, read_piece

PIECES_PER_TASK = 4
BLOCK_BYTES = 16 * 2**20
RESERVE_TIMEOUT_S = 60
REST_S = 0.02


class PieceSource(Datasource):  # type: ignore[misc]
    """A reading plan as a Ray Data source, one task per few pieces.

    Args:
        root: URI of the prepared set.
        pieces: What to read, in order.
        showing: How rows are shown.
    """

    def __init__(self, root: str, pieces: Sequence[Piece], showing: Showing) -> None:
        super().__init__()
        self._root, self._pieces, self._showing = root, list(pieces), showing

    @property
    def num_tasks(self) -> int:
        """Number of reading tasks."""
        return -(-len(self._pieces) // PIECES_PER_TASK)

    def estimate_inmemory_data_size(self) -> int:
        """Returns the decoded size in bytes."""
        rows = sum(piece.rows for piece in self._pieces) * self._showing.views
        return rows * self._row_bytes()

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Cuts the plan into tasks of `PIECES_PER_TASK`, whatever parallelism Ray would like."""
        starts = range(0, len(self._pieces), PIECES_PER_TASK)
        portions = [self._pieces[start : start + PIECES_PER_TASK] for start in starts]
        return [self._task(portion, per_task_row_limit) for portion in portions]

    def _task(self, pieces: list[Piece], row_limit: int | None) -> ReadTask:
        rows = sum(piece.rows for piece in pieces) * self._showing.views
        metadata = BlockMetadata(
            num_rows=rows, size_bytes=rows * self._row_bytes(), input_files=None, exec_stats=None
        )
        read = partial(_read, self._root, pieces, self._showing)
        return ReadTask(read, metadata, per_task_row_limit=row_limit)

    def _row_bytes(self) -> int:
        images = 1 + (4 if self._showing.pair else 0) + any(p.partners for p in self._pieces[:1])
        return self._showing.frame.size**2 * (3 * images + (4 if self._showing.labels else 0))


def _read(root: str, pieces: list[Piece], showing: Showing) -> Iterable[pa.Table]:
    from ray.data.extensions import (  # noqa: PLC0415
        ArrowTensorArray,
        ArrowVariableShapedTensorArray,
    )

    for piece in pieces:
        block = read_piece(root, piece, showing)
        if showing.whole and not len(block["id"]):
            continue
        columns: dict[str, Any] = {"id": pa.array(block["id"].tolist(), pa.string())}
        for name in block.keys() - {"id"}:
            column = block[name]
            kind = ArrowVariableShapedTensorArray if column.dtype == object else ArrowTensorArray
            columns[name] = kind.from_numpy(column)
        yield pa.table(columns)


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
        self._set_context()
        source = PieceSource(root, pieces, showing)
        dataset = ray.data.read_datasource(
            source, num_cpus=min(1.0, self._cpus), override_num_blocks=source.num_tasks
        )
        wanted = sum(piece.rows for piece in pieces)
        seen = 0
        with ended(dataset):
            for block in dataset.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=2
            ):
                seen += len(block["id"])
                yield block
        if seen != wanted and not showing.labels:
            raise RuntimeError(f"Ray Data gave {seen} of {wanted} rows of {root}")

    def _set_context(self) -> None:
        context = DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.custom_execution_callback_classes = [Rest]
        strategy = PlacementGroupSchedulingStrategy(get_placement_group(self._group))
        with warnings.catch_warnings():
            # Deprecated for 2027 and the only way to give a stream resources of its own in the
            # Ray versions that pyproject.toml allows.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            context.scheduling_strategy = strategy
            context.scheduling_strategy_large_args = strategy


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
def ended(dataset: ray.data.Dataset) -> Iterator[None]:
    """Ends the execution of a data set that is iterated over in the block, and its tasks.

    Ray leaves that to the garbage collector where an iteration stops early, and lets tasks that
    run go on.
    """
    try:
        yield
    finally:
        executor = dataset._current_executor
        if executor is not None:
            executor.shutdown(force=True)


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
