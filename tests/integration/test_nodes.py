"""A cluster that loses nodes: trials go on elsewhere, to the scores of an undisturbed sweep."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.integration.nodes import nodes
from tests.integration.test_interruptions import PATIENCE_S, SETTINGS, start, statuses
from usseg_ray.planning import make_plan
from usseg_ray.request import Request
from usseg_ray.run_context import PlainContext
from usseg_ray.worker import build_run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*noload.*"),
]

EPOCHS = 6


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


def undisturbed(sweep: Path, trial: int) -> dict[str, float]:
    """Returns the last metrics of a trial that is fitted in this very process."""
    plan = make_plan(Request.load(sweep))
    job = plan.jobs().on("cpu", "").in_processes(0).job(plan.draws[trial])
    whole = PlainContext(torch.device("cpu"), [])
    build_run(job, whole).fit()
    return timeless(whole.history[-1])


def reports(sweep: Path, trial: int) -> list[dict[str, Any]]:
    """Reads all reports of a trial to Tune, in this life of the sweep."""
    found = sorted(sweep.glob(f".tune/trial_{trial:03d}*/result.json"))
    return [json.loads(line) for file in found for line in file.read_text().splitlines()]


def begin(
    folder: Path,
    data: str,
    environment: dict[str, str],
    workers: str,
    *options: str,
    out: str = "runs/broken",
) -> "subprocess.Popen[str]":
    """Starts a sweep of two trials, side by side, on a cluster."""
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump({"space": {"method.gamma": {"uniform": [0.5, 2.0]}}}))
    settings = SETTINGS | {"train.steps_per_epoch": 40, "train.epochs": EPOCHS}
    sets = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    asked = ["--data", data, "--space", str(space), "--num-samples", "2", *sets]
    asked += ["--finalists", "0"]
    asked += ["--max-concurrent", "2", "--workers-per-trial", workers, "--out", out]
    return start(folder, *asked, *options, environment=environment)


def test_a_lost_nodes_trials_go_on_elsewhere(tmp_path: Path, scenes: Path) -> None:
    sweep = tmp_path / "runs" / "broken"
    with nodes(3) as cluster:
        process = begin(tmp_path, str(scenes), cluster.environment, "0")
        until(lambda: min(epoch(sweep, 0), epoch(sweep, 1)) >= 1, process, "no epoch came")
        killed = time.monotonic()
        cluster.lose(next(node for node in range(3) if cluster.runs(node, "ImplicitFunc")))
        until(lambda: any(sweep.glob(".tune/*/error.txt")), process, "nobody noticed")
        noticed = time.monotonic() - killed
        (lost,) = [i for i in (0, 1) if any(sweep.glob(f".tune/trial_{i:03d}*/error.txt"))]
        before = epoch(sweep, lost)
        until(lambda: epoch(sweep, lost) > before, process, "the trial did not go on")
        seconds = time.monotonic() - killed
        output, _ = process.communicate(timeout=PATIENCE_S)
    print(f"noticed after {noticed:.1f} s, next epoch reported after {seconds:.1f} s")
    assert process.returncode == 0, output
    assert statuses(tmp_path) == {"trial_000": "FINISHED", "trial_001": "FINISHED"}
    for trial in range(2):
        assert timeless(record(sweep, trial)["metrics"]) == undisturbed(sweep, trial)
    # What was committed is not learnt again, and the other trial's process never ended.
    told = reports(sweep, lost)
    assert [report["epoch"] for report in told] == list(range(1, EPOCHS + 1))
    assert len({report["pid"] for report in told}) == 2
    assert len({report["pid"] for report in reports(sweep, 1 - lost)}) == 1
