"""A cluster that loses nodes: trials go on elsewhere, to the scores of an undisturbed sweep."""

import json
import logging
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from moto.server import ThreadedMotoServer
from pyarrow.fs import copy_files

from tests.integration.nodes import nodes
from tests.integration.test_interruptions import PATIENCE_S, SETTINGS, start, statuses
from usseg_ray.data.shards import resolve
from usseg_ray.evaluation import Asked, evaluate_trial
from usseg_ray.planning import make_plan
from usseg_ray.request import Request
from usseg_ray.run_context import PlainContext
from usseg_ray.storage import Storage
from usseg_ray.worker import build_run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*noload.*"),
]


EPOCHS = 5
TRAINS = {"0": "ImplicitFunc", "1": "TrainWorker"}
"""What Ray calls the processes that train: those of Tune's trials, or of worker groups."""
POINTS = 15.0
"""Bound on the difference in mIoU of a trial whose number of workers changed."""


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
    return {name: value for name, value in metrics.items() if "second" not in name}


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
    asked += ["--max-concurrent", "2", "--workers-per-trial", workers, "--out", out]
    return start(folder, *asked, *options, environment=environment)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_lost_nodes_trials_go_on_elsewhere(tmp_path: Path, scenes: Path, workers: str) -> None:
    sweep = tmp_path / "runs" / "broken"
    with nodes(3) as cluster:
        process = begin(tmp_path, str(scenes), cluster.environment, workers)
        until(
            lambda: min(epoch(sweep, 0), epoch(sweep, 1)) >= 2, process, "two epochs did not come"
        )
        before = [epoch(sweep, 0), epoch(sweep, 1)]
        killed = time.monotonic()
        cluster.lose(next(node for node in range(3) if cluster.runs(node, TRAINS[workers])))
        until(lambda: any(sweep.glob(".tune/*/error.txt")), process, "nobody noticed")
        noticed = time.monotonic() - killed
        (lost,) = [i for i in (0, 1) if any(sweep.glob(f".tune/trial_{i:03d}*/error.txt"))]
        until(lambda: epoch(sweep, lost) > before[lost], process, "the trial did not go on")
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


def test_a_group_goes_on_with_fewer_workers(tmp_path: Path, scenes: Path) -> None:
    sweep = tmp_path / "runs" / "broken"
    with nodes(2, cpus=2) as cluster:
        spread = ["--set", "resources.cpus_per_worker=1.5", "--num-samples", "1"]
        process = begin(tmp_path, str(scenes), cluster.environment, "1-2", *spread)
        until(lambda: epoch(sweep, 0) >= 2, process, "no two epochs came")
        trained = [node for node in (0, 1) if cluster.runs(node, TRAINS["1"])]
        assert trained == [0, 1]
        cluster.lose(0)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert statuses(tmp_path) == {"trial_000": "FINISHED"}
    metrics = record(sweep, 0)["metrics"]
    assert metrics["evaluated_images"] == 13
    # Another order of rows in the epochs that were left, of the same number of images a step.
    assert abs(metrics["unsup_miou"] - undisturbed(sweep, 0)["unsup_miou"]) < POINTS


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """A bucket on an S3 server on loopback; gives the environment in which it is found."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    made = urllib.request.Request(f"{endpoint}/bucket", method="PUT")
    with urllib.request.urlopen(made):
        pass
    yield {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()


def test_a_sweep_that_lost_its_head_goes_on_from_a_bucket(
    tmp_path: Path, scenes: Path, bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, features and the run itself lie in a bucket; the second machine has nothing else."""
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    data, out = "s3://bucket/data/scenes", "s3://bucket/runs/broken"
    filesystem, root = resolve(data)
    copy_files(str(scenes), root, destination_filesystem=filesystem)
    store = {"USSEG_FEATURES_SHARED": "s3://bucket/features"}
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    cached = ["--set", "resources.features=cache", "--set", "method.warmup_steps=2"]
    with nodes(2, bucket | store | {"USSEG_FEATURES": str(tmp_path / "features")}) as cluster:
        process = begin(first, data, cluster.environment, "0", *cached, out=out)
        sweep = first / "runs" / "broken"
        until(lambda: min(epoch(sweep, 0), epoch(sweep, 1)) >= 2, process, "no two epochs came")
        cluster.lose_head()
        process.kill()
        process.communicate()
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "features")
    again = start(second, "--resume", out, environment=dict(os.environ) | store)
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, output
    sweep = second / "runs" / "broken"
    assert statuses(second) == {"trial_000": "FINISHED", "trial_001": "FINISHED"}
    assert reports(sweep, 0)[0]["epoch"] >= 3
    for trial in range(2):
        assert timeless(record(sweep, trial)["metrics"]) == undisturbed(sweep, trial)
        assert (sweep / f"trial_{trial:03d}" / "pictures" / "mosaic.png").exists()
    kept = Storage(tmp_path / "kept", out)
    assert kept.files() == sorted(["baselines.json", "features.json", "final.json", "sweep.yaml"])
    assert kept.folders("") == ["final", "trial_000", "trial_001"]
    assert kept.folders("trial_001/train") == [f"epoch_{EPOCHS:04d}"]
    scored = evaluate_trial(str(sweep / "trial_001"), Asked(device="cpu")).metrics
    assert scored["evaluated_images"] == 11
    assert json.loads((sweep / "final.json").read_text())["acseg"]["metrics"]["unsup_miou"] > 0
