"""A sweep of trials that only wait, on many logical nodes: what the driver needs for each.

`python -m tests.integration.scale TRIALS NODES FIGURE` prints a line every ten seconds: seconds,
trials that ended, and the driver's memory; at the end it draws them. All is as in a real sweep
(Ray Tune, records, pictures, MLflow in SQLite, screen) but the trials themselves, which wait for a
second, leave arrays of a real trial's sizes and report once, and the baselines.

`python -m tests.integration.scale store TRIALS FOLDER` writes such a sweep without Ray, with all
epochs of its trials and three finalists: `FOLDER/mlflow.db` for `report`, `FOLDER/run` with records
and arrays. It ends with the CPU seconds that the consensus of its trials takes.
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

from tests.conftest import PROJECT
from tests.integration import left
from usseg_ray.core.config import flatten
from usseg_ray.pictures.trial_page import draw
from usseg_ray.scoring.evaluation import ground_truth
from usseg_ray.scoring.objective import CONSENSUS
from usseg_ray.sweeps.criteria import add_consensus
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request
from usseg_ray.tracking.ledger import EXPERIMENT, Ledger
from usseg_ray.tracking.spool import MARK_FILE, SPOOL_FILE
from usseg_ray.tracking.store import SECONDS
from usseg_ray.trials.job import Job
from usseg_ray.trials.trial import FINALISTS, Trial, load_trials, number_and_seed, trial_name

WAIT_S = 1.0
EVERY_S = 10.0
Sample = tuple[float, int, float]


def wait(config: dict[str, Any], folder: str) -> None:
    """Stands for a trial."""
    from ray import tune

    time.sleep(WAIT_S)
    number = int(config["trial"].removeprefix("trial_"))
    left.leave(number, Path(folder, config["trial"]))
    tune.report(left.report_of(number, left.EPOCHS))


def planned(trials: int, folder: Path) -> Plan:
    """Plans a sweep of STEGO over its shipped space, with a store in a folder."""
    request = Request(
        methods={"stego": str(PROJECT / "search_spaces/stego.yaml")},
        data="synthetic",
        assigned={
            "train.epochs": left.EPOCHS,
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
    return make_plan(request)


def drive(trials: int, folder: Path, figure: Path) -> None:
    """Runs the sweep in this process, on the cluster of `RAY_ADDRESS`."""
    from rich.console import Console

    from usseg_ray.sweeps import tuning
    from usseg_ray.sweeps.sweep import run_sweep

    plan = planned(trials, folder)
    run = folder / "run"
    run.mkdir()
    plan.request.save(run)
    (run / "baselines.json").write_text("{}")
    tuning.run_trial = wait  # type: ignore[attr-defined]
    samples: list[Sample] = []
    started = time.monotonic()
    threading.Thread(target=_watch, args=(run, started, samples), daemon=True).start()
    run_sweep(plan, run, Console(file=io.StringIO()))
    _look(run, started, samples)
    _draw(samples, figure)


def write(trials: int, folder: Path) -> None:
    """Writes records, arrays and store of a sweep that has ended, and times its consensus."""
    run, plan = folder / "run", planned(trials, folder)
    tags = {"usseg.protocol": plan.protocol(), "usseg.folder": "scale"}
    uri, key = plan.request.tracking_uri, plan.request.key
    settings = flatten(plan.config)
    with Ledger.open(uri, EXPERIMENT, key, params=settings, tags=tags, folder=run) as ledger:
        ledger.log_baselines({"position": 7.5, "colour": 8.2, "kmeans": 57.1, "linear": 77.7})
        for name, (method, sample) in plan.draws.items():
            _write_trial(ledger, run, plan.job(method, sample or {}), name)
            _let_catch_up(run)
        for number in sorted(range(trials), key=left.score_of)[-3:]:
            _write_finals(ledger, run, plan, number)
        started = time.process_time()
        records = load_trials(run)
        add_consensus(records, run, records, run)
        print(f"consensus: {time.process_time() - started:.1f} s of CPU")
        for record in records:
            ledger.log(record.name, {CONSENSUS: record.metrics[CONSENSUS]}, left.EPOCHS)


def _write_trial(ledger: Ledger, run: Path, job: Job, name: str) -> None:
    settings, number = flatten(job.config), number_and_seed(name)[0]
    tags = {"usseg.method": job.method, "usseg.kmeans": "faiss"}
    ledger.open_trial(name, settings, tags)
    metrics = dict[str, float]()
    for epoch in range(1, left.EPOCHS + 1):
        metrics |= left.report_of(number, epoch)
        ledger.log(name, {**left.report_of(number, epoch), SECONDS: 3.0 * epoch}, epoch)
    ledger.close_trial(name, "FINISHED")
    left.leave(number, run / name)
    record = Trial(number, job.method, {}, settings, left.EPOCHS, "FINISHED", metrics)
    record.seconds = 3.0 * left.EPOCHS
    record.save(run)


def _write_finals(ledger: Ledger, run: Path, plan: Plan, number: int) -> None:
    """Writes a finalist's runs with three seeds, its tables and pictures among them."""
    protocol = plan.protocol(plan.config.data.test_split)
    for seed in range(3):
        settings = flatten(plan.job("stego", {}, seed).config)
        tags = {"usseg.method": "stego", "usseg.test_protocol": protocol}
        name = ledger.open_final(trial_name(number), seed, settings, tags)
        ledger.log(name, left.scores_of_test(number, seed), 0)
        folder = run / FINALISTS / name / "test"
        left.leave(number, folder, counts=True)
        draw(folder, ground_truth(plan.manifest), plan.manifest.palette, name)
        ledger.attach(name, folder)
        ledger.close_trial(name, "FINISHED")


def _let_catch_up(run: Path) -> None:
    """Waits while the store is far behind: who ends waits for ten minutes at most."""
    mark = run / MARK_FILE
    while (run / SPOOL_FILE).stat().st_size - int(mark.read_text() if mark.exists() else 0) > 2**22:
        time.sleep(0.1)


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
    elif first == "store":
        write(int(rest[0]), Path(rest[1]))
    else:
        main(int(first), int(rest[0]), rest[1])
