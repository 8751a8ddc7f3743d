"""What benchmarks measure with: figures beside their references, CPU seconds, peak memory.

Off an image's path. Losses are timed in CPU seconds of a process, all threads together, since wall
time on a machine that does something else tells more about the something else. The process is a
fresh one: its threads sleep while they wait, since CPU time would otherwise grow with whatever
keeps them waiting, and it has no freed memory left that a work could reuse unseen. It is forked
from one that has imported the package and done nothing else.
"""

import ctypes
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from usseg_ray.core.errors import UserError
from usseg_ray.features.store.recipe import Arithmetic

GB = 1e9
TERA = 1e12
RATES = frozenset({"images/s", "rows/s", "MB/s", "TFLOP/s", "%"})
"""Units of which more is better; of seconds and gigabytes less is."""

Work = Callable[[], object]
Shape = Sequence[int]
ReturnType = TypeVar("ReturnType")

# A parameter of glibc's `mallopt`, and bytes above which it then maps, and unmaps, each block.
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 2**20
_PRODUCT_SIDES = {"cpu": 2048, "cuda": 8192}
_THREADS = 2
_IMPORTED = ["usseg_ray.trials.worker"]
"""What most works need, and what takes seconds to import."""


@dataclass(frozen=True)
class Measure:
    """One figure beside what it is measured against, maybe held to a bar.

    Attributes:
        benchmark: Which benchmark it belongs to.
        what: What was measured.
        value: The figure.
        unit: Unit of the figure and the reference.
        reference: What it stands beside.
        reference_value: The reference's figure; `None` where it could not be measured.
        limit: The ratio that is still good enough; `None` where the figure only informs.
    """

    benchmark: str
    what: str
    value: float
    unit: str
    reference: str
    reference_value: float | None
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """The figure as a multiple of its reference."""
        return None if self.reference_value is None else self.value / self.reference_value

    @property
    def more_is_better(self) -> bool:
        """Whether a larger figure is the better one."""
        return self.unit in RATES

    @property
    def passed(self) -> bool:
        """Whether the ratio is on the right side of the limit, if there is one."""
        if self.limit is None or self.ratio is None:
            return True
        return self.ratio >= self.limit if self.more_is_better else self.ratio <= self.limit


def apart(function: Callable[..., ReturnType], *arguments: object) -> ReturnType:
    """Calls a function in a fresh process with two threads.

    Args:
        function: Known by name there.
        arguments: Its arguments, picklable.

    Returns:
        Its result.

    Raises:
        UserError: The process was killed.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    told = {"OMP_NUM_THREADS": str(_THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    with (
        environment_variables(told),
        ProcessPoolExecutor(1, context, torch.set_num_threads, (_THREADS,)) as pool,
    ):
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError(
                "A benchmark's process was killed, most likely because memory ran out."
            ) from None


@contextmanager
def environment_variables(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables for the processes that are started in the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def cpu_seconds(*works: Work, rounds: int) -> list[float]:
    """Times works in turn, so that what slows the machine for a while meets all of them.

    Args:
        works: What to time.
        rounds: How often each is run; other load can only slow one down, so the best counts.

    Returns:
        Each work's least CPU seconds, all threads of this process together.
    """
    return _least(time.process_time, works, rounds)


def least_seconds(*works: Work, rounds: int) -> list[float]:
    """Times works in turn by the clock on the wall.

    Args:
        works: What to time.
        rounds: How often each is run; the best counts.

    Returns:
        Each work's least seconds.
    """
    return _least(time.perf_counter, works, rounds)


def _least(clock: Callable[[], float], works: Sequence[Work], rounds: int) -> list[float]:
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            start = clock()
            work()
            best[index] = min(best[index], clock() - start)
    return best


def product(side: int, device: torch.device, dtype: torch.dtype) -> Work:
    """Makes a matrix product, which every machine does about as well as it can.

    Args:
        side: Of both square matrices; 2 `side`^3 FLOP.
        device: Where.
        dtype: In which type.
    """
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    return lambda: matrix @ matrix


def faster_arithmetic(device: torch.device) -> Arithmetic:
    """Chooses what a careful user would: not every CPU is fast in bfloat16."""
    if device.type == "cuda":
        return "bfloat16"
    halved, plain = (product(1024, device, kind) for kind in (torch.bfloat16, torch.float32))
    first, second = least_seconds(halved, plain, rounds=3)
    return "bfloat16" if first < second else "float32"


def matmul_peak(device: torch.device, dtype: torch.dtype, rounds: int = 3) -> float:
    """Measures the FLOP/s of a large matrix product, the most that a device reaches."""
    side = _PRODUCT_SIDES[device.type]
    work = synchronised(product(side, device, dtype), device)
    work()
    (once,) = least_seconds(work, rounds=rounds)
    return 2 * side**3 / once


def synchronised(work: Work, device: torch.device) -> Work:
    """Makes a work that ends when a device has done it; a CPU always has."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def kernel_seconds(work: Work, device: torch.device) -> float:
    """Adds up what a GPU's kernels, or a CPU's operators, take in a work.

    Args:
        work: One that has run before.
        device: Where it computes.

    Returns:
        Seconds: less than the work takes where the device waits for what the process does.
    """
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as found:
        synchronised(work, device)()
    events = found.key_averages()
    if not on_gpu:
        return float(sum(event.self_cpu_time_total for event in events) / 1e6)
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    return float(sum(event.self_device_time_total for event in kernels) / 1e6)


def host_waits(work: Work) -> int:
    """Counts how often a work has the process wait for a GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing" in str(one.message) for one in told)


def product_flops(work: Work) -> float:
    """Counts the FLOP of a work's matrix products and convolutions, those in place included."""
    in_place = {torch.ops.aten.addmm_: _added_product_flops}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        work()
    return float(counter.get_total_flops())


def _added_product_flops(_: Shape, first: Shape, second: Shape, **__: object) -> int:
    return 2 * first[0] * first[1] * second[1]


def peak_above_inputs(work: Work) -> float:
    """Measures how much memory a work takes at most; to be called once in a fresh process.

    Args:
        work: With its inputs at hand.

    Returns:
        GB: the process's peak resident size less its size before the work, which the first use of
        a library adds to.
    """
    before: int = psutil.Process().memory_info().rss
    work()
    return (_peak_resident() - before) / GB


def return_what_is_freed() -> None:
    """Has glibc's allocator return large blocks of this process as soon as they are freed.

    Otherwise it keeps some, by rules that depend on how threads meet: the same work took 190 MB in
    most processes and 470 to 520 in 3 of 14. Elsewhere this does nothing.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def _peak_resident() -> int:
    # Linux's ru_maxrss starts with the parent's, the kernel's own line does not.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
