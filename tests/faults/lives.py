"""What befalls a sweep that nobody kills: memory, disk, clock, numbers, another driver, bits."""

import errno
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil

from tests.faults.checks import OPEN, asked, lost, same_end, twice
from tests.faults.damage import flip
from tests.faults.kills import TRAINING, lives_through, settled
from tests.faults.matrix import Found, fault
from tests.faults.scenario import Life, Sweep, named, shared_ray, until
from usseg_ray.core import files
from usseg_ray.engine.checkpoint import BEST


@fault(
    "trial-out-of-memory",
    "the trial's process gets no more memory for a second: smaller batches, or tried again",
    within=shared_ray,
)
def trial_out_of_memory(random: Random, root: Path) -> Found:
    def happen(life: Life) -> None:
        for process in named("ImplicitFunc"):
            limited(process, psutil.RLIMIT_AS, process.memory_info().vms, random.uniform(0.3, 2))

    return lives_through(random, Sweep(root), happen, TRAINING)


def limited(process: psutil.Process, what: int, most: int, seconds: float) -> None:
    """Lets a process have no more of something for a while."""
    with suppress(psutil.Error):
        process.rlimit(what, (most, -1))
        time.sleep(seconds)
        process.rlimit(what, (-1, -1))


@fault(
    "trial-cannot-write",
    "the disk is full for the trial's process alone, for up to two seconds",
    within=shared_ray,
)
def trial_cannot_write(random: Random, root: Path) -> Found:
    def happen(life: Life) -> None:
        for process in named("ImplicitFunc"):
            most = random.randrange(20_000)
            limited(process, psutil.RLIMIT_FSIZE, most, random.uniform(0.3, 2))

    return lives_through(random, Sweep(root), happen, TRAINING)


@fault(
    "loss-not-finite",
    "a learning rate that makes a trial's loss infinite: it fails in a line, the other ends",
    within=shared_ray,
)
def loss_not_finite(random: Random, root: Path) -> Found:
    space = root / "rates.yaml"
    space.write_text(f"space:\n  method.lr: {{choice: [1.0e+{random.randint(20, 37)}]}}\n")
    sweep = Sweep(root, methods={"acseg": str(space)})
    life = sweep.begin()
    code = life.end()
    assert code == 0, f"it ended with {code}: {life.said()[-500:]}"
    first, second = (sweep.record(trial) for trial in ("trial_000", "trial_001"))
    assert first["status"] == "FINISHED"
    assert all(map(math.isfinite, first["metrics"].values()))
    assert second["status"] == "FAILED", second["status"]
    assert "NonFiniteLossError" in second["reason"], second["reason"]
    assert "Traceback" not in life.said()
    assert not asked(sweep.store, OPEN)
    return Found([], twice(sweep.store))


@fault(
    "clock-jump",
    "the driver's clock jumps by up to two days, forwards or back, in mid-sweep",
    within=shared_ray,
)
def clock_jump(random: Random, root: Path) -> Found:
    clock, after, by = time.time, random.uniform(1, 12), random.uniform(-2, 2) * 86400

    def jump() -> None:
        time.time = lambda: clock() + by

    sweep = Sweep(root)
    life = sweep.begin(lambda: threading.Timer(after, jump).start())
    assert life.end() == 0, life.said()[-500:]
    same_end(sweep)
    return Found([], twice(sweep.store))


@fault(
    "writer-fails",
    "the disk is full at one call, any, of the function that writes files in the driver",
    within=shared_ray,
)
def writer_fails(random: Random, root: Path) -> Found:
    number = random.randrange(60)

    def fail() -> None:
        write, calls = files._write_here, iter(range(10**9))

        def here(folder: Path, content: Callable[[Any], Any]) -> Any:
            if next(calls) == number:
                (root / "failed").touch()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            return write(folder, content)

        files._write_here = here  # type: ignore[assignment]

    sweep = Sweep(root)
    life = sweep.begin(fail)
    until(lambda: (root / "failed").exists() or life.ended(), "the write that fails")
    before, now = sweep.finished(), time.monotonic()
    if life.end() != 0:
        assert "Traceback" not in life.said(), life.said()[-500:]
        return settled(sweep, before, sweep.go_on(now))
    return settled(sweep, before, time.monotonic() - now)


@fault(
    "disk-full",
    "the run's file system fills, at any byte; there is room again, and it is gone on with",
    within=shared_ray,
)
def disk_full(random: Random, root: Path) -> Found:
    run = root / "runs" / "sweep"
    run.mkdir(parents=True)
    pages = random.randrange(16, 800)
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(run)]
    subprocess.run([*mount, "-o", f"size={pages * 4096}"], check=True)
    try:
        sweep = Sweep(root)
        life = sweep.begin()
        until(lambda: os.statvfs(run).f_bavail == 0 or life.ended(), "the disk is full")
        before, now = sweep.finished(), time.monotonic()
        code = life.end()
        subprocess.run(["mount", "-o", "remount,size=512m", str(run)], check=True)
        if code != 0:
            assert "Traceback" not in life.said(), life.said()[-500:]
        return settled(sweep, before, sweep.go_on(now))
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)


@fault("second-driver", "a second driver at any moment: refused in a line", within=shared_ray)
def second_driver(random: Random, root: Path) -> Found:
    sweep = Sweep(root)

    def happen(life: Life) -> None:
        second = sweep.begin()
        code = second.end()
        assert code == 2 or life.ended(), f"the second ended with {code}: {second.said()[-300:]}"

    return lives_through(random, sweep, happen)


@fault(
    "bits-between-lives",
    "killed at any moment, a bit flips in a checkpoint or array of the run, and on",
    within=shared_ray,
)
def bits_between_lives(random: Random, root: Path) -> Found:
    sweep = Sweep(root)
    life = sweep.begin()
    sweep.wait(life, random)
    before, now = sweep.finished(), time.monotonic()
    life.send(signal.SIGKILL)
    life.end(60)
    kept = [*sweep.folder.glob("trial_*/**/*.pt"), *sweep.folder.glob("trial_*/**/*.npz")]
    flipped = random.choice(sorted(kept)) if kept else None
    if flipped:
        flip(flipped, random)
    recovery = sweep.go_on(now)
    # Of a best state nothing else is known; the score of the epoch that labels pick is left out.
    same_end(sweep, left_out="label_selected" if flipped and BEST in flipped.parts else None)
    again = {name for name in before if flipped and name in flipped.parts}
    for name in again:  # an epoch is trained again: the same, but for how long it took
        assert before[name]["metrics"].keys() == sweep.finished()[name]["metrics"].keys()
        del before[name]
    return Found(lost(before, sweep), twice(sweep.store), recovery)
