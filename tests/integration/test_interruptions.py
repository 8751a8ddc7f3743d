"""A sweep that is killed or interrupted leaves nothing running and goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from tests.ledgers import lay_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = {
    "backbone.name": "textons",
    "data.train_size": 48,
    "data.eval_size": 48,
    "train.epochs": 3,
    "train.batch_size": 8,
    "method.num_blocks": 1,
    "method.num_heads": 3,
}
# Steps of an epoch by workers per trial: epochs in the trial's own process are to be long enough
# to be seen.
STEPS = {0: 50, 1: 4}
PATIENCE_S = 240


def start(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts a command in `folder`, on a Ray cluster of its own unless `environment` names one."""
    if environment is None:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "usseg_ray.tune", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(folder: Path, data: Path, workers: int, *more: str) -> subprocess.Popen[str]:
    lay_store(folder / "mlflow.db")
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump({"space": {"method.gamma": {"uniform": [0.5, 2.0]}}}))
    settings = SETTINGS | {"train.steps_per_epoch": STEPS[workers]}
    sets = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    sets += ["--workers-per-trial", str(workers)]
    options = ["--data", str(data), "--space", str(space), "--num-samples", "3"]
    options += ["--finalists", "1", "--seeds", "1", "--register", "scenes"]
    options += ["--max-concurrent", "1", "--out", "runs/broken"]
    return start(folder, *options, *sets, *more)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < ends, f"{path} did not come"
        time.sleep(0.2)


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Lists what a command started and what does its work.

    Ray's agents are left out: they notice a lost node only after a minute or more.
    """
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if "agent" not in " ".join(child.cmdline()).lower():
                found.append(child)
    return found


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


def statuses(folder: Path) -> dict[str, str]:
    """Returns the status of every child run by trial; fails where a trial has two."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [r for r in runs if "usseg.trial" in r.data.tags and "usseg.seed" not in r.data.tags]
    found = {r.data.tags["usseg.trial"]: r.info.status for r in children}
    assert len(found) == len(children)
    return found


def test_a_killed_sweep_resumes_and_repeats_nothing(tmp_path: Path, scenes: Path) -> None:
    process = begin(tmp_path, scenes, 1, "--num-samples", "2")
    sweep = tmp_path / "runs" / "broken"
    wait_for(sweep / "trial_001" / "train" / "epoch_0001" / "checkpoint.pt", process)
    started = children_of(process)
    process.kill()
    process.communicate()
    wait_until_gone(started)
    first = json.loads((sweep / "trial_000" / "trial.json").read_text())

    again = start(tmp_path, "--resume", "broken")
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, output
    kept = json.loads((sweep / "trial_000" / "trial.json").read_text())
    # Known when all have ended; the rest, times included, is as it was.
    kept["metrics"].pop("label_free.consensus")
    kept["sha256"] = first["sha256"]
    assert kept == first
    assert statuses(tmp_path) == {f"trial_00{i}": "FINISHED" for i in range(2)}
    assert "Best trial on test" in output
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("scenes", "champion")
    best = client.get_run(champion.run_id).data.metrics["unsup_miou"]
    trials = [json.loads(file.read_text()) for file in sweep.glob("trial_*/trial.json")]
    assert best == max(trial["metrics"]["unsup_miou"] for trial in trials)


@pytest.mark.parametrize(
    ("ending", "workers"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 1)],
    ids=["ctrl-c", "terminated, with a worker group"],
)
def test_an_interrupted_sweep_closes_every_run_and_names_the_way_back(
    tmp_path: Path, scenes: Path, ending: signal.Signals, workers: int
) -> None:
    process = begin(tmp_path, scenes, workers)
    wait_for(tmp_path / "runs" / "broken" / "trial_000" / "train" / "epoch_0001", process)
    started = children_of(process)
    process.send_signal(ending)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output
    assert "--resume" in output
    assert "Traceback" not in output
    assert "SIGTERM received" not in output
    wait_until_gone(started)
    assert set(statuses(tmp_path).values()) <= {"KILLED", "FINISHED"}
    assert "KILLED" in statuses(tmp_path).values()


@pytest.mark.parametrize("killed", [("raylet",), ("raylet", "gcs_server")], ids="+".join)
def test_a_sweep_whose_ray_is_killed_ends_as_an_interrupted_one(
    tmp_path: Path, scenes: Path, killed: tuple[str, ...]
) -> None:
    process = begin(tmp_path, scenes, 0)
    wait_for(tmp_path / "runs" / "broken" / "trial_000" / "train" / "epoch_0001", process)
    started = children_of(process)
    own = psutil.Process(process.pid).children()
    rays = [child for child in own if child.name() in killed]
    assert len(rays) == len(killed)
    for one in rays:
        one.kill()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output
    assert any(f"(process {one.pid}) was killed, or out of memory" in output for one in rays)
    assert "Traceback" not in output
    assert "To go on: python -m usseg_ray.tune --resume" in output
    wait_until_gone(started)
    assert set(statuses(tmp_path).values()) <= {"KILLED", "FINISHED"}
    assert "KILLED" in statuses(tmp_path).values()


def test_ctrl_c_twice_ends_within_seconds_and_the_sweep_goes_on(
    tmp_path: Path, scenes: Path
) -> None:
    fewer = ("--num-samples", "2", "--finalists", "0", "--set", "train.epochs=2")
    process = begin(tmp_path, scenes, 0, *fewer)
    wait_for(tmp_path / "runs" / "broken" / "trial_000" / "train" / "epoch_0001", process)
    started = children_of(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    # Which a shell both calls 130: the second may find an interpreter that is ending already.
    assert process.returncode in (130, -signal.SIGINT), output
    assert "Traceback" not in output
    wait_until_gone(started)

    again = start(tmp_path, "--resume", "broken")
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, output
    assert statuses(tmp_path) == {f"trial_00{i}": "FINISHED" for i in range(2)}
