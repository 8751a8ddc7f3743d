"""What storing features costs and saves, and whether it is worth it: `cache` or `recompute`.

Before anything runs. The decision is a sum that a reader can do again: what every pass would cost
without a store, against computing once, writing once and reading in every pass. All of its numbers
are measured on the spot (`extraction.probe`, `measure_disk`), none is a property of the code; the
sentence that it ends in holds them.
"""

import mmap
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from usseg_ray.core.errors import UserError

Choice = Literal["cache", "recompute"]
Mode = Literal["auto", "cache", "recompute"]

GB = 1e9
PROBE_BYTES = 64 * 2**20
CACHED_SHARE = 0.5
"""Share of the free memory that an entry may have so as to be read from the page cache."""


@dataclass(frozen=True)
class Speed:
    """What computing features was measured to take.

    Attributes:
        decode: CPU seconds to read, decode and frame a row.
        compute: Seconds of one device to compute its features.
        devices: Backbones that work at a time.
        cpus: CPUs that decode for them.
    """

    decode: float
    compute: float
    devices: int = 1
    cpus: float = 1.0

    @property
    def seconds_per_row(self) -> float:
        """Seconds for a row where both go on at the same time: the slower one's."""
        return max(self.decode / self.cpus, self.compute / self.devices)


@dataclass(frozen=True)
class Disk:
    """What a disk was measured to do.

    Attributes:
        write: Bytes per second, flushed.
        read: Bytes per second, from the disk itself.
        cached: Bytes per second from the page cache.
        room: Bytes that an entry may take.
        memory: Bytes of page cache that it may count on.
    """

    write: float
    read: float
    cached: float
    room: int
    memory: int


@dataclass(frozen=True)
class Decision:
    """What is done with features, and why.

    Attributes:
        choice: The decision.
        num_bytes: Size of the entry.
        extraction_s: Seconds of one pass that computes features.
        cache_s: Seconds of all passes with a store.
        recompute_s: Seconds of all passes without one.
        reason: Half a sentence.
        sentence: All of it, for the screen.
    """

    choice: Choice
    num_bytes: int
    extraction_s: float
    cache_s: float
    recompute_s: float
    reason: str
    sentence: str


def decide(
    *,
    what: str,
    rows: int,
    row_bytes: int,
    passes: float,
    speed: Speed,
    disk: Disk,
    missing: float = 1.0,
    mode: Mode = "auto",
) -> Decision:
    """Decides between storing features and computing them in every pass.

    Args:
        what: Names the features on the screen.
        rows: Rows of the entry.
        row_bytes: Bytes of one.
        passes: Walks over all rows that are expected, of all trials together.
        speed: Of computing.
        disk: Where the entry would lie.
        missing: Share of the entry that is not there yet.
        mode: The user's word, which wins where it can be kept.

    Returns:
        The decision.

    Raises:
        UserError: The user insists on a store that does not fit.
    """
    num_bytes = rows * row_bytes
    extraction = rows * speed.seconds_per_row
    reading = disk.cached if num_bytes <= disk.memory else disk.read
    once = missing * (extraction + num_bytes / disk.write)
    cache, recompute = once + passes * num_bytes / reading, passes * extraction
    choice: Choice = "cache" if cache < recompute else "recompute"
    sums = f"{passes:g} passes take {duration(cache)} with a store, {duration(recompute)} without"
    reason = sums
    if num_bytes > disk.room:
        if mode == "cache":
            raise UserError(
                f"{what}: {size(num_bytes)} do not fit the {size(disk.room)} that the store may "
                "take. Give it a larger disk or limit, or leave the decision to the program."
            )
        choice = "recompute"
        reason = f"the store has room for {size(disk.room)} only"
    if mode != "auto":
        choice, reason = mode, f"as asked; {sums}"
    place = "memory" if num_bytes <= disk.memory else "disk"
    sentence = (
        f"{what}: {size(num_bytes)} ({rows:,} rows of {size(row_bytes)}), "
        f"{duration(extraction)} to compute at {1 / speed.seconds_per_row:.3g} rows/s, "
        f"read from {place} at {reading / GB:.1f} GB/s. {choice}: {reason}."
    )
    return Decision(choice, num_bytes, extraction, cache, recompute, reason, sentence)


def measure_disk(folder: Path, room: int) -> Disk:
    """Measures a disk with a file of `PROBE_BYTES` that is removed again.

    Args:
        folder: Where entries lie.
        room: Bytes that an entry may take there.

    Returns:
        The measurement.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{uuid.uuid4().hex}.probe"
    try:
        started = time.perf_counter()
        with path.open("wb") as file:
            # A disk may be clever about zeros.
            file.write(os.urandom(2**20) * (PROBE_BYTES // 2**20))
            file.flush()
            os.fsync(file.fileno())
        write = PROBE_BYTES / (time.perf_counter() - started)
        _forget(path)
        read = _read_rate(path)
        # Other load can only slow it down.
        cached = max(_read_rate(path) for _ in range(3))
    finally:
        path.unlink(missing_ok=True)
    memory = int(CACHED_SHARE * psutil.virtual_memory().available)
    return Disk(write, read, cached, room, memory)


def _forget(path: Path) -> None:
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_rate(path: Path) -> float:
    target = bytearray(b"\1") * PROBE_BYTES
    started = time.perf_counter()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        target[:] = view
    return PROBE_BYTES / (time.perf_counter() - started)


def size(num_bytes: float) -> str:
    """Writes a number of bytes: 602 kB, 71.2 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            digits = 0 if num_bytes >= 100 * scale else 1
            return f"{num_bytes / scale:.{digits}f} {unit}"
    return f"{num_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Writes a number of seconds: 3 s, 12 min, 4.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
