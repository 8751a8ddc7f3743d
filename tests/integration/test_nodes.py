"""A cluster that loses a node or its head: the sweep ends with an undisturbed one's leaderboard."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pyarrow.fs import copy_files

from tests.integration.bucket import bucket
from tests.integration.nodes import nodes
from tests.integration.test_interruptions import PATIENCE_S, SETTINGS, start, statuses
from tests.ledgers import lay_store
from tests.planned import jobs
from usseg_ray.core.files import resolve
from usseg_ray.engine.context import PlainContext
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import load_trials, ranked, trial_name
from usseg_ray.trials.worker import build_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS, TRIALS = 4, 2
SWEEP = SETTINGS | {"train.steps_per_epoch": 30, "train.epochs": EPOCHS}
SPACE = {"space": {"method.gamma": {"uniform": [0.5, 2.0]}}}
POINTS = 15.0
"""Bound on the difference in mIoU of a trial whose number of workers changed."""
Leaderboard = list[tuple[str, dict[str, float]]]


def until(true: Callable[[], bool], process: "subprocess.Popen[str]", what: str) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < ends, what
        time.sleep(0.1)


def record(sweep: Path, trial: int) -> dict[str, Any]:
    file = sweep / f"trial_{trial:03d}" / "trial.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def epoch(sweep: Path, trial: int) -> float:
    return float(record(sweep, trial).get("metrics", {}).get("epoch", 0))


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    """Leaves out times, and what is known of a trial only when all have ended."""
    return {
        name: value
        for name, value in metrics.items()
        if "second" not in name and name != "label_free.consensus"
    }


def fitted_here(folder: Path, scenes: Path, trials: int = TRIALS, **settings: int) -> Leaderboard:
    """Fits the same trials one after the other in this very process."""
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    request = Request(
        methods={"acseg": str(space)},
        data=str(scenes),
        assigned=SWEEP | {f"train.{name}": value for name, value in settings.items()},
        num_samples=trials,
        search="random",
        scheduler="none",
    )
    plan = make_plan(request)
    found = list[dict[str, float]]()
    for job in jobs(plan.in_processes(0)).values():
        whole = PlainContext(torch.device("cpu"), [])
        build_run(job, whole).fit()
        found.append(timeless(whole.history[-1]))
    order = sorted(range(trials), key=lambda trial: -found[trial]["unsup_miou"])
    return [(trial_name(trial), found[trial]) for trial in order]


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    return fitted_here(tmp_path_factory.mktemp("space"), scenes)


def leaderboard(sweep: Path) -> Leaderboard:
    return [(trial.name, timeless(trial.metrics)) for trial in ranked(load_trials(sweep))]


def reports(sweep: Path, trial: int) -> list[dict[str, Any]]:
    """Reads all reports of a trial to Tune, in this life of the sweep."""
    found = sorted(sweep.glob(f".tune/trial_{trial:03d}*/result.json"))
    return [json.loads(line) for file in found for line in file.read_text().splitlines()]


def counted(sweep: Path) -> int:
    """Counts the failures that Tune holds against trials: one more than one ends a trial."""
    (state,) = sweep.glob(".tune/experiment_state-*.json")
    trials = json.loads(state.read_text())["trial_data"]
    return sum(int(json.loads(kept)["num_failures"]) for _, kept in trials)


def failed(sessions: Path) -> list[int]:
    """Lists the trials of which Tune noted a failure, where it notes it first."""
    found = sessions.glob("session_latest/artifacts/*/.tune/driver_artifacts/trial_*/error.txt")
    return [int(file.parent.name.split("_")[1]) for file in found]


def begin(
    folder: Path,
    data: str,
    environment: dict[str, str],
    *options: str,
    workers: str = "0",
    out: str = "runs/broken",
) -> "subprocess.Popen[str]":
    """Starts the sweep on a cluster, every trial in its own process unless told."""
    lay_store(folder / "mlflow.db")
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    sets = [part for k, v in SWEEP.items() for part in ("--set", f"{k}={v}")]
    asked = ["--data", data, "--space", str(space), "--num-samples", str(TRIALS), *sets]
    asked += ["--finalists", "0", "--workers-per-trial", workers, "--out", out]
    return start(folder, *asked, *options, environment=environment)


def test_a_lost_nodes_trials_go_on_elsewhere(
    tmp_path: Path, scenes: Path, undisturbed: Leaderboard
) -> None:
    sweep = tmp_path / "runs" / "broken"
    with nodes(3) as cluster:
        process = begin(tmp_path, str(scenes), cluster.environment, "--max-concurrent", "2")
        until(lambda: min(epoch(sweep, 0), epoch(sweep, 1)) >= 1, process, "no epoch came")
        killed = time.monotonic()
        cluster.lose(cluster.running("ImplicitFunc")[0])
        until(lambda: bool(failed(cluster.folder)), process, "nobody noticed")
        noticed = time.monotonic() - killed
        (lost,) = failed(cluster.folder)
        before = epoch(sweep, lost)
        until(lambda: epoch(sweep, lost) > before, process, "the trial did not go on")
        seconds = time.monotonic() - killed
        output, _ = process.communicate(timeout=PATIENCE_S)
    print(f"node: noticed after {noticed:.1f} s, next epoch reported after {seconds:.1f} s")
    assert process.returncode == 0, output
    assert statuses(tmp_path) == {"trial_000": "FINISHED", "trial_001": "FINISHED"}
    assert leaderboard(sweep) == undisturbed
    assert counted(sweep) == 0
    # What was committed is not learnt again, and the other trial's process never ended.
    told = reports(sweep, lost)
    assert [report["epoch"] for report in told] == list(range(1, EPOCHS + 1))
    assert len({report["pid"] for report in told}) == 2
    assert len({report["pid"] for report in reports(sweep, 1 - lost)}) == 1


def test_a_sweep_that_lost_its_head_goes_on_from_a_bucket(
    tmp_path: Path, scenes: Path, undisturbed: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data and run lie in a bucket: the second head has nothing else of the first."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    data, out = "s3://bucket/data/scenes", "s3://bucket/runs/broken"
    with bucket() as found:
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        filesystem, root = resolve(data)
        copy_files(str(scenes), root, destination_filesystem=filesystem)
        with nodes(1) as cluster:
            lay_store(tmp_path / "mlflow.db")
            store = f"sqlite:///{tmp_path / 'mlflow.db'}"
            process = begin(first, data, cluster.environment, "--tracking-uri", store, out=out)
            sweep = first / "runs" / "broken"
            until(lambda: epoch(sweep, 1) >= 2, process, "no epoch of the second trial came")
            cluster.lose_head()
            process.kill()
            process.communicate()
        kept, reached = record(sweep, 0), epoch(sweep, 1)
        shutil.rmtree(first)
        started = time.monotonic()
        with nodes(1) as cluster:
            again = start(second, "--resume", out, environment=dict(cluster.environment))
            sweep = second / "runs" / "broken"
            until(lambda: epoch(sweep, 1) > reached, again, "the second trial did not go on")
            seconds = time.monotonic() - started
            output, _ = again.communicate(timeout=PATIENCE_S)
        stored = Storage(tmp_path / "stored", out)
        kept_epochs = [f"epoch_{epoch:04d}" for epoch in (EPOCHS - 1, EPOCHS)]
        assert stored.folders("trial_001/train") == kept_epochs
    print(f"head: next epoch reported {seconds:.1f} s after a new cluster was begun")
    assert again.returncode == 0, output
    assert statuses(tmp_path) == {"trial_000": "FINISHED", "trial_001": "FINISHED"}
    assert leaderboard(sweep) == undisturbed
    # The trial that had ended is not trained again, the other one goes on after its checkpoint.
    assert "label_free.consensus" in record(sweep, 0)["metrics"]
    assert timeless(record(sweep, 0)["metrics"]) == timeless(kept["metrics"])
    assert record(sweep, 0)["seconds"] == kept["seconds"]
    assert reports(sweep, 0) == []
    assert reports(sweep, 1)[0]["epoch"] > reached
    assert len({report["pid"] for report in reports(sweep, 1)}) == 1


@pytest.mark.lengthy
def test_a_group_whose_node_is_announced_to_go_saves_its_state_within_the_epoch(
    tmp_path: Path, scenes: Path
) -> None:
    sweep, steps, seconds = tmp_path / "runs" / "broken", 800, 10
    one = ["--num-samples", "1", "--set", f"train.steps_per_epoch={steps}"]
    # A worker fills a node, so what reads for it is on another one.
    one += ["--set", "train.epochs=2", "--set", "resources.cpus_per_worker=1"]
    with nodes(3) as cluster:
        process = begin(tmp_path, str(scenes), cluster.environment, *one, workers="1")
        until(lambda: epoch(sweep, 0) == 1, process, "no epoch came")
        (node,) = cluster.running("TrainWorker")
        cluster.announce_loss(node, seconds)
        found = list[Path]()

        def saved() -> bool:
            found.extend(sweep.glob("trial_000/train/epoch_0001_step_*"))
            return bool(found)

        until(saved, process, "no state was saved")
        moved = lambda: cluster.running("TrainWorker") not in ([], [node])  # noqa: E731
        until(moved, process, "it did not go on")
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    metrics = record(sweep, 0)["metrics"]
    learnt = metrics["images_per_second"] * metrics["train_seconds"] / SWEEP["train.batch_size"]
    taken = int(found[0].name.split("_")[-1])
    assert round(learnt) == steps - taken
    assert leaderboard(sweep) == fitted_here(tmp_path, scenes, 1, epochs=2, steps_per_epoch=steps)
    assert counted(sweep) == 0


@pytest.mark.lengthy
def test_a_group_goes_on_with_fewer_workers(
    tmp_path: Path, scenes: Path, undisturbed: Leaderboard
) -> None:
    sweep = tmp_path / "runs" / "broken"
    with nodes(2, cpus=2) as cluster:
        # One worker fits a node, beside the tasks that read for both.
        apart = ["--num-samples", "1", "--set", "resources.cpus_per_worker=1.5"]
        process = begin(tmp_path, str(scenes), cluster.environment, *apart, workers="1-2")
        until(lambda: epoch(sweep, 0) >= 1, process, "no epoch came")
        assert cluster.running("TrainWorker") == [0, 1]
        killed = time.monotonic()
        cluster.lose(0)
        before = epoch(sweep, 0)
        until(lambda: epoch(sweep, 0) > before, process, "the trial did not go on")
        seconds = time.monotonic() - killed
        assert cluster.running("TrainWorker") == [1]
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert counted(sweep) == 0
    print(f"group: next epoch reported after {seconds:.1f} s")
    assert process.returncode == 0, output
    assert statuses(tmp_path) == {"trial_000": "FINISHED"}
    assert [report["epoch"] for report in reports(sweep, 0)] == list(range(1, EPOCHS + 1))
    (_, metrics), expected = leaderboard(sweep)[0], dict(undisturbed)["trial_000"]
    assert metrics["evaluated_images"] == expected["evaluated_images"]
    # Another order of rows in all epochs, of the same number of images a step.
    assert abs(metrics["unsup_miou"] - expected["unsup_miou"]) < POINTS


@pytest.mark.lengthy
def test_a_group_goes_on_with_more_workers_when_a_node_joins(tmp_path: Path, scenes: Path) -> None:
    sweep = tmp_path / "runs" / "broken"
    with nodes(1, cpus=2) as cluster:
        long = ["--num-samples", "1", "--set", "resources.cpus_per_worker=1.5"]
        long += ["--set", "train.epochs=1000"]
        process = begin(tmp_path, str(scenes), cluster.environment, *long, workers="1-2")
        until(lambda: epoch(sweep, 0) >= 1, process, "no epoch came")
        assert cluster.running("TrainWorker") == [0]
        cluster.join()
        joined = time.monotonic()
        until(lambda: cluster.running("TrainWorker") == [0, 1], process, "it did not grow")
        before = epoch(sweep, 0)
        until(lambda: epoch(sweep, 0) > before + 1, process, "the trial did not go on")
        seconds = time.monotonic() - joined
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    print(f"group: grown, next epoch reported after {seconds:.1f} s")
    told = [report["epoch"] for report in reports(sweep, 0)]
    assert told == list(range(1, len(told) + 1))
