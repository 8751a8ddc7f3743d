"""`python -m tests.gate.soak [--minutes 60]`: short sweeps without end, in one process on one Ray.

After each sweep it notes what this process and all that it started hold. A line is fitted to each
over the sweeps behind the first third, in which libraries fill their caches; what grows by more
over an hour than its bound is a leak, and the command fails.
"""

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import ray
import typer

from tests import tiny

GROWTH = {"memory_mb": 200.0, "descriptors": 20.0, "processes": 2.0, "shm_mb": 50.0, "tmp_files": 5}
"""What may be added in an hour."""

RAY_REMEMBERS = {
    "RAY_maximum_gcs_destroyed_actor_cached_count": "20",
    "RAY_task_events_max_num_task_in_gcs": "500",
}
"""Of ended actors and tasks; 100,000 of each by default, which takes days to fill."""

SETTINGS = {k: v for k, v in tiny.SETTINGS.items() if k != "data.name"}
SETTINGS |= {"train.steps_per_epoch": 5}


def held(scratch: Path) -> dict[str, float]:
    """Counts what is held now; what Python only has not collected yet is let go before."""
    gc.collect()
    memory = descriptors = 0
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in processes:
        with suppress(psutil.Error):  # it has ended meanwhile
            memory += process.memory_info().rss - process.memory_info().shared
            # Ray's log monitor keeps logs of ended workers open, 200 at most.
            if not any("log_monitor" in part for part in process.cmdline()):
                descriptors += process.num_fds()
    shm = sum(file.stat().st_size for file in Path("/dev/shm").iterdir() if file.is_file())
    return {
        "memory_mb": memory / 2**20,
        "descriptors": descriptors,
        "processes": len(processes),
        "shm_mb": shm / 2**20,
        "tmp_files": sum(1 for path in scratch.iterdir() if path.name != "ray"),
    }


def grown(when: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Returns a value after the first third, at the end, and its growth in a unit of `when`."""
    start = len(values) // 3
    slope = np.polyfit(when[start:], values[start:], 1)[0] if len(values) - start > 2 else np.nan
    return float(values[start]), float(values[-1]), float(slope)


@contextmanager
def own_place() -> Iterator[Path]:
    """Works, with a Ray of its own, in a folder that nobody else writes into; then removes it."""
    # Ray's sessions and everybody's scratch files lie there too.
    scratch = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    home = scratch / "home"
    home.mkdir()
    os.chdir(home)
    os.environ["USSEG_FEATURES"] = str(home / "features")
    tiny.write(home / "data")
    os.environ |= RAY_REMEMBERS
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        yield scratch
    finally:
        ray.shutdown()
        os.chdir("/")
        shutil.rmtree(scratch, ignore_errors=True)


def main(minutes: Annotated[float, typer.Option(min=0.1, envvar="SOAK_MINUTES")] = 60) -> None:
    """Sweeps until the time is over."""
    with own_place() as scratch:
        noted, hours = soak(scratch, minutes)
    told, leaks = [], []
    for what, bound in GROWTH.items():
        first, last, slope = grown(np.array(hours), np.array([row[what] for row in noted]))
        told.append(f"{what} {first:.0f} -> {last:.0f} ({slope:+.1f} an hour)")
        if slope > bound:
            leaks.append(what)
    print(f"{len(noted)} sweeps in {60 * hours[-1]:.0f} min: " + ", ".join(told))
    if leaks:
        sys.exit(f"It grows: {', '.join(leaks)}.")


def soak(scratch: Path, minutes: float) -> tuple[list[dict[str, float]], list[float]]:
    """Sweeps, and returns what was held after each sweep, and when, in hours."""
    import usseg_ray

    home = scratch / "home"
    ends, began = time.monotonic() + 60 * minutes, time.monotonic()
    noted: list[dict[str, float]] = []
    hours: list[float] = []
    while time.monotonic() < ends or len(noted) < 4:
        run = home / "runs" / f"s{len(noted):04d}"
        with (home / "log").open("w") as log, redirect_stdout(log):
            usseg_ray.sweep(
                home / "data",
                methods=("acseg", "kmeans"),
                out=run,
                settings=SETTINGS,
                num_samples=1,
                finalists=1,
                seeds=1,
            )
        shutil.rmtree(run)
        noted.append(held(scratch))
        hours.append((time.monotonic() - began) / 3600)
    return noted, hours


if __name__ == "__main__":
    typer.run(main)
