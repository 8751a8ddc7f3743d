"""This machine: how many CPUs a process may use, what their rounding hangs on, peak memory."""

import ctypes
import os
import platform
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import torch

from usseg_ray.core.errors import UserError


def usable_cpus() -> int:
    """Counts the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chosen_device(asked: str | None) -> str:
    """Says where to compute.

    Args:
        asked: `--device`: `cpu`, `cuda`, or a GPU if there is one with `auto` or unset.

    Returns:
        `cpu` or `cuda`.

    Raises:
        UserError: It is none of these, or this machine has no GPU.
    """
    if asked not in (None, "auto", "cpu", "cuda"):
        raise UserError(f"--device {asked}: one of auto, cpu and cuda.")
    cuda = torch.cuda.is_available()
    if asked == "cuda" and not cuda:
        raise UserError("--device cuda: PyTorch sees no GPU here. Leave it out, or say cpu.")
    return asked if asked in ("cpu", "cuda") else "cuda" if cuda else "cpu"


def cpu_name() -> str:
    """Names the processor, or its architecture where the system has no name for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def vector_instructions() -> str:
    """Names the vector instructions that PyTorch's kernels use here, for example `AVX512`.

    Wider ones add numbers in another order, so that training from one seed ends elsewhere;
    `ATEN_CPU_CAPABILITY` chooses narrower ones.
    """
    return str(torch.backends.cpu.get_cpu_capability())


def give_memory_back() -> None:
    """Gives the system what was freed in this process, and kept for the next large block."""
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


INTERVAL_S = 3.0
READ_ANYWAY = 10
"""After so many looks sizes are read whatever the estimate says."""


class PeakMemory:
    """Samples the sum of proportional set sizes (pages shared by n processes count 1/n each).

    To read one takes the kernel 3 to 7 ms a process, in which that process gets no memory. So they
    are read only where an estimate, which costs nothing, says that their sum may be higher, and now
    and then.

    Attributes:
        peak_bytes: The largest sum seen inside the `with` block.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        # A process that has just been forked has as much as its parent by the estimate; so it is
        # corrected by the largest difference of any reading, and never compared with itself. All
        # readings so far may have met one, the first as well: hence those that come anyway.
        this, more = psutil.Process(), list[int]()
        for look in count():
            estimate = _estimated_bytes(this)
            if look % READ_ANYWAY == 0 or estimate + max(more) > self.peak_bytes:
                found = tree_bytes(this)
                more.append(found - estimate)
                self.peak_bytes = max(self.peak_bytes, found)
            if self._ended.wait(INTERVAL_S):
                return


def tree_bytes(root: psutil.Process) -> int:
    """Sums the memory of a process and its descendants.

    Args:
        root: The process.

    Returns:
        Bytes; proportional set size where the system tells it, else resident size.
    """
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def _estimated_bytes(root: psutil.Process) -> int:
    """Sums what processes have for themselves, and what the one has that shares most."""
    total = most_shared = 0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):
            info = process.memory_info()
            shared = getattr(info, "shared", 0)
            total += info.rss - shared
            most_shared = max(most_shared, shared)
    return total + most_shared
