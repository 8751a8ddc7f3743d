"""A trial or the tracking server is killed in mid-sweep: the sweep ends by itself, and whole."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.integration.test_light_trials import timeless
from tests.integration.test_sweep import SPACE, plan_for, run
from tests.ledgers import eventually, free_port, serving
from tests.planned import jobs
from usseg_ray.engine.context import PlainContext
from usseg_ray.sweeps.plan import Plan
from usseg_ray.sweeps.tables import Outcome
from usseg_ray.trials.trial import TRIAL_FILE, load_trial, ranked
from usseg_ray.trials.worker import build_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

Metrics = dict[str, float]
TRIALS = ("trial_000", "trial_001")
EPOCHS = 4
# An epoch is to last a second, so that what is to be killed in it is met there.
STEPS = 60
PATIENCE_S = 240


def small_plan(
    folder: Path, data: Path, workers: int = 0, num_trials: int = 2, **changes: Any
) -> Plan:
    """Plans trials, one after the other."""
    space = SPACE.format(key="method.gamma", values="{uniform: [0.5, 2.0]}")
    assigned = {
        "train.epochs": EPOCHS,
        "train.steps_per_epoch": STEPS,
        "resources.num_workers": workers,
    }
    order: dict[str, Any] = {"num_samples": num_trials, "max_concurrent": 1, "finalists": 0}
    order["baselines"] = False
    return plan_for(folder, data, space=space, assigned=assigned, **(order | changes))


def reports(folder: Path, trial: str) -> list[dict[str, Any]]:
    """Reads what Tune has noted of a trial that has ended: a line for each epoch."""
    texts = [file.read_text() for file in folder.glob(f".tune/{trial}*/result.json")]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def has_reported(folder: Path, trial: str) -> bool:
    """Tells from the sweep's own record; Tune's comes into the folder some seconds later."""
    home = folder / trial
    return (home / TRIAL_FILE).exists() and "epoch" in load_trial(home).metrics


def process_of(actor: str) -> psutil.Process:
    """Finds the one process of this test's cluster that works for a kind of actor."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if f"ray::{actor}" in " ".join(process.cmdline()):
                found.append(process)
    (one,) = found
    return one


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metrics]:
    """The same trials, fitted here one after the other: their last reports."""
    plan = small_plan(tmp_path_factory.mktemp("undisturbed") / "plan", scenes)
    found = {}
    for trial, job in zip(TRIALS, jobs(plan.in_processes(0)).values(), strict=True):
        context = PlainContext(torch.device("cpu"), [])
        build_run(job, context).fit()
        found[trial] = timeless(context.history[-1])
    return found


def child_runs(client: MlflowClient) -> dict[str, Run]:
    """Returns the runs of the trials; fails where one has two, or is not FINISHED."""
    (experiment,) = [e for e in client.search_experiments() if e.name == "usseg_ray"]
    found = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in found} == {"FINISHED"}
    children = [run for run in found if "usseg.trial" in run.data.tags]
    named = {run.data.tags["usseg.trial"]: run for run in children}
    assert len(named) == len(children)
    return named


def check_leaderboard(outcome: Outcome, expected: dict[str, Metrics]) -> None:
    assert {trial.status for trial in outcome.trials} == {"FINISHED"}
    for trial in outcome.trials:
        wanted = expected[trial.name]
        assert {key: trial.metrics[key] for key in wanted} == wanted
    names = [trial.name for trial in outcome.trials]
    order = sorted(names, key=lambda name: -expected[name]["unsup_miou"])
    assert [trial.name for trial in ranked(outcome.trials)] == order


def check_histories(client: MlflowClient, outcome: Outcome, folder: Path) -> None:
    """Compares every metric of every epoch in the store with what the trial reported."""
    runs = child_runs(client)
    assert runs.keys() == {trial.name for trial in outcome.trials}
    for trial in outcome.trials:
        noted = reports(folder, trial.name)
        assert noted[-1]["epoch"] == EPOCHS
        for key in noted[-1].keys() & trial.metrics.keys():
            history = client.get_metric_history(runs[trial.name].info.run_id, key)
            kept = {point.step: point.value for point in history}
            assert len(kept) == len(history), f"{trial.name} has {key} twice"
            assert kept == {int(report["epoch"]): report[key] for report in noted}, key


@pytest.mark.parametrize(
    ("workers", "num_trials", "victim"),
    [
        pytest.param(0, 2, "ImplicitFunc", id="its own process"),
        pytest.param(1, 1, "RayTrainWorker", id="a worker of its group", marks=pytest.mark.lengthy),
    ],
)
def test_a_trial_that_is_killed_goes_on_from_its_checkpoint(
    tmp_path: Path,
    scenes: Path,
    undisturbed: dict[str, Metrics],
    workers: int,
    num_trials: int,
    victim: str,
) -> None:
    folder = tmp_path / "killed"
    plan = small_plan(folder, scenes, workers, num_trials)
    last = TRIALS[num_trials - 1]

    def kill_the_last() -> None:
        eventually(lambda: has_reported(folder, last), PATIENCE_S)
        process_of(victim).kill()

    with ThreadPoolExecutor(1) as aside:
        killing = aside.submit(kill_the_last)
        outcome, text = run(plan, folder)
        killing.result()
    check_leaderboard(outcome, undisturbed)
    check_histories(MlflowClient(plan.request.tracking_uri), outcome, folder)
    noted = reports(folder, last)
    assert len({report["pid"] for report in noted}) == 2, "nothing was killed"
    epochs = [report["epoch"] for report in noted]
    assert epochs == sorted(set(epochs)), "it began anew"
    assert text.count(f"{last} finished") == 1


def test_a_server_that_is_killed_and_returns_costs_no_metric(tmp_path: Path, scenes: Path) -> None:
    folder, port = tmp_path / "away", free_port()
    plan = small_plan(folder, scenes, tracking_uri=f"http://127.0.0.1:{port}")
    with ExitStack() as first, ExitStack() as second, ThreadPoolExecutor(1) as aside:

        def kill_and_restart() -> None:
            eventually(lambda: has_reported(folder, "trial_000"), PATIENCE_S)
            first.close()
            eventually(lambda: has_reported(folder, "trial_001"), PATIENCE_S)
            # Held, so that the sweep has not ended before a slow machine has a server again.
            trial = process_of("ImplicitFunc")
            trial.suspend()
            try:
                second.enter_context(serving(tmp_path, port))
            finally:
                trial.resume()

        first.enter_context(serving(tmp_path, port))
        restarting = aside.submit(kill_and_restart)
        outcome, text = run(plan, folder)
        restarting.result()
    assert text.count("does not answer (") == 1
    assert text.count("is back; ") == 1
    assert not list(folder.glob("tracking.*"))
    for trial in TRIALS:
        assert [report["epoch"] for report in reports(folder, trial)] == [1, 2, 3, 4]
    check_histories(MlflowClient(f"sqlite:///{tmp_path}/server.db"), outcome, folder)
