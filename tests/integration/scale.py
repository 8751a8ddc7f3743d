"""A sweep of trials that only wait, on many logical nodes: what the driver needs for each.

`python -m tests.integration.scale TRIALS NODES` prints a line every ten seconds: seconds, trials
that ended, and the driver's memory. Everything is as in a real sweep (Ray Tune, records, MLflow in
SQLite, screen) but the trials themselves, which wait for a second and report once.
"""

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

SECONDS = 1.0
EVERY_S = 10.0


def wait(config: dict[str, Any], jobs: object, folder: str) -> None:
    """Stands for a trial."""
    from ray import tune

    time.sleep(SECONDS)
    tune.report({"epoch": 1.0, "unsup_miou": float(config["index"] % 97)})


def drive(trials: int, folder: Path) -> None:
    """Runs the sweep in this process, on the cluster of `RAY_ADDRESS`."""
    from rich.console import Console

    from usseg_ray import sweep
    from usseg_ray.planning import make_plan
    from usseg_ray.request import Request

    space = folder / "space.yaml"
    space.write_text("space: {method.gamma: {uniform: [0.5, 2.0]}}")
    request = Request(
        methods={"acseg": str(space)},
        data="synthetic",
        assigned={
            "train.epochs": 1,
            "data.test_split": "none",
            "resources.num_workers": 0,
            "resources.features": "recompute",
        },
        num_samples=trials,
        search="random",
        scheduler="none",
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        key="scale",
    )
    run = folder / "run"
    run.mkdir()
    request.save(run)
    (run / "baselines.json").write_text("{}")
    plan = make_plan(request)
    sweep.run_trial = wait  # type: ignore[attr-defined]
    started = time.monotonic()
    threading.Thread(target=_watch, args=(run, started), daemon=True).start()
    sweep.run_sweep(plan, run, Console(file=io.StringIO()))
    _say(run, started)


def _watch(run: Path, started: float) -> None:
    while True:
        _say(run, started)
        time.sleep(EVERY_S)


def _say(run: Path, started: float) -> None:
    ended = sum('"FINISHED"' in file.read_text() for file in run.glob("trial_*/trial.json"))
    memory = psutil.Process().memory_info().rss / 2**20
    sys.stdout.write(f"{time.monotonic() - started:6.0f} s {ended:5d} trials {memory:6.0f} MiB\n")
    sys.stdout.flush()


def main(trials: int, count: int) -> None:
    """Starts the nodes, and the driver as a process of its own."""
    from tests.integration.nodes import nodes

    with tempfile.TemporaryDirectory() as folder, nodes(count) as cluster:
        command = [sys.executable, "-m", "tests.integration.scale", "drive", str(trials), folder]
        subprocess.run(command, env=os.environ | cluster.environment, check=True)


if __name__ == "__main__":
    first, second, *rest = sys.argv[1:]
    if rest:
        drive(int(second), Path(rest[0]))
    else:
        main(int(first), int(second))
