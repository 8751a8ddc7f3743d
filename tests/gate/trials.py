"""`python -m tests.gate.trials [--trials 200]`: a sweep whose process sees many trials.

They run in it one after the other. After the first third, in which each trial's thread takes an
arena of its own from the allocator, what the process holds must not grow.
"""

import sys
import threading
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from tests.gate.soak import SETTINGS, grown, own_place
from usseg_ray.trials.trial import ENDED, load_trials

GROWTH_MB = 50.0
"""What it may have more after as many trials again."""

EVERY_S = 2.0


def watch(run: Path, stop: threading.Event, noted: list[tuple[int, int, float]]) -> None:
    """Notes trials that ended, and each process that trains with its MB, until told to stop."""
    while not stop.wait(EVERY_S):
        ended = sum(trial.status in ENDED for trial in load_trials(run)) if run.exists() else 0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it has ended meanwhile
                if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                    memory = process.memory_info()
                    noted.append((ended, process.pid, (memory.rss - memory.shared) / 2**20))


def main(trials: Annotated[int, typer.Option(min=10)] = 200) -> None:
    """Sweeps once."""
    import usseg_ray

    noted: list[tuple[int, int, float]] = []
    stop, began = threading.Event(), time.monotonic()
    with own_place() as scratch:
        home = scratch / "home"
        watching = threading.Thread(target=watch, args=(home / "run", stop, noted), daemon=True)
        watching.start()
        with (home / "log").open("w") as log, redirect_stdout(log):
            swept = usseg_ray.sweep(
                home / "data",
                methods=("acseg", "kmeans"),
                out=home / "run",
                settings=SETTINGS,
                num_samples=trials // 2,
                finalists=0,
                max_concurrent=1,
            )
        stop.set()
        watching.join()
        states = [trial.status for trial in swept.trials]
    processes = {pid for _, pid, _ in noted}
    first, last, slope = grown(*(np.array([row[at] for row in noted], float) for at in (0, 2)))
    print(
        f"{len(states)} trials, {states.count('FINISHED')} finished, in {len(processes)} process, "
        f"{time.monotonic() - began:.0f} s: {first:.0f} -> {last:.0f} MB behind the first third "
        f"({slope * trials:+.1f} in {trials})"
    )
    if slope * trials > GROWTH_MB or len(processes) > 1 or states.count("FINISHED") < len(states):
        sys.exit("It grows, was replaced, or a trial failed.")


if __name__ == "__main__":
    typer.run(main)
