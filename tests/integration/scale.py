"""A sweep of trials that only wait, on many logical nodes: what the driver needs for each.

`python -m tests.integration.scale TRIALS NODES FIGURE` prints a line every ten seconds: seconds,
trials that ended, and the driver's memory; at the end it draws them. All is as in a real sweep
(Ray Tune, records, MLflow in SQLite, screen) but the trials themselves, which wait for a second and
report once, and the baselines.
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
Sample = tuple[float, int, float]


def wait(config: dict[str, Any], folder: str) -> None:
    """Stands for a trial."""
    from ray import tune

    time.sleep(SECONDS)
    score = float(int(config["trial"].removeprefix("trial_")) % 97)
    tune.report({"epoch": 1.0, "unsup_miou": score})


def drive(trials: int, folder: Path, figure: Path) -> None:
    """Runs the sweep in this process, on the cluster of `RAY_ADDRESS`."""
    from rich.console import Console

    from usseg_ray.sweeps import tuning
    from usseg_ray.sweeps.plan import make_plan
    from usseg_ray.sweeps.request import Request
    from usseg_ray.sweeps.sweep import run_sweep

    space = folder / "space.yaml"
    space.write_text("space: {method.gamma: {uniform: [0.5, 2.0]}}")
    request = Request(
        methods={"acseg": str(space)},
        data="synthetic",
        assigned={
            "train.epochs": 1,
            "resources.num_workers": 0,
            "resources.features": "recompute",
        },
        num_samples=trials,
        search="random",
        scheduler="none",
        finalists=0,
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        key="scale",
    )
    run = folder / "run"
    run.mkdir()
    request.save(run)
    (run / "baselines.json").write_text("{}")
    plan = make_plan(request)
    tuning.run_trial = wait  # type: ignore[attr-defined]
    samples: list[Sample] = []
    started = time.monotonic()
    threading.Thread(target=_watch, args=(run, started, samples), daemon=True).start()
    run_sweep(plan, run, Console(file=io.StringIO()))
    _look(run, started, samples)
    _draw(samples, figure)


def _watch(run: Path, started: float, samples: list[Sample]) -> None:
    while True:
        _look(run, started, samples)
        time.sleep(EVERY_S)


def _look(run: Path, started: float, samples: list[Sample]) -> None:
    ended = sum('"FINISHED"' in file.read_text() for file in run.glob("trial_*/trial.json"))
    memory = psutil.Process().memory_info().rss / 2**20
    seconds = time.monotonic() - started
    samples.append((seconds, ended, memory))
    print(f"{seconds:6.0f} s {ended:5d} trials {memory:6.0f} MiB", flush=True)


def _draw(samples: list[Sample], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([ended for _, ended, _ in samples], [memory for *_, memory in samples])
    axes.set(xlabel="trials that ended", ylabel="driver's memory (RSS), MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def main(trials: int, count: int, figure: str) -> None:
    """Starts the nodes, and the driver as a process of its own."""
    from tests.integration.nodes import nodes

    with tempfile.TemporaryDirectory() as folder, nodes(count) as cluster:
        command = [sys.executable, "-m", "tests.integration.scale", "drive", str(trials), folder]
        subprocess.run([*command, figure], env=os.environ | cluster.environment, check=True)


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first == "drive":
        drive(int(rest[0]), Path(rest[1]), Path(rest[2]))
    else:
        main(int(first), int(rest[0]), rest[1])
