"""The ledger against a real MLflow store: runs, their keys, how they end and begin again."""

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import PROJECT
from tests.ledgers import (
    SWEEP,
    eventually,
    in_fresh_interpreter,
    opened,
    runs,
    statuses,
    trial_folder,
)
from usseg_ray.core.errors import UserError
from usseg_ray.tracking.ledger import deliver
from usseg_ray.tracking.spool import SPOOL_FILE, Operation, Spool

pytestmark = [pytest.mark.usefixtures("store")]


def test_a_sweep_is_a_parent_with_a_child_per_trial(folder: Path) -> None:
    with opened(method="acseg", space=[3, 5]) as ledger:
        for index, trial in enumerate(("t0", "t1")):
            ledger.open_trial(trial, {"num_clusters": index, "backbone.weights": None}, {"a": "b"})
            ledger.log(trial, {"unsup_miou": 30.0 + index, "loss": 0.5}, step=0)
            ledger.log(trial, {"unsup_miou": 40.0 + index}, step=1)
        ledger.log(None, {"test.unsup_miou": 39.0}, step=0)
        ledger.close_trial("t0", "FINISHED")
        ledger.close_trial("t1", "FAILED", "out of memory")
    found = runs(folder)
    parent = found[SWEEP]
    assert statuses(folder) == {SWEEP: "FINISHED", "t0": "FINISHED", "t1": "FAILED"}
    parents = {found[name].data.tags["mlflow.parentRunId"] for name in ("t0", "t1")}
    assert parents == {parent.info.run_id}
    assert parent.data.params == {"method": "acseg", "space": "[3, 5]"}
    assert parent.data.metrics == {"test.unsup_miou": 39.0}
    assert parent.data.tags["usseg.data_digest"] == "abc"
    assert parent.data.tags["usseg.version.python"] == ".".join(map(str, sys.version_info[:3]))
    head = ["git", "-C", str(PROJECT), "rev-parse", "--verify", "--quiet", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    known = parent.data.tags.get("mlflow.source.git.commit", "")
    assert known.removesuffix("-dirty") == commit
    assert found["t1"].data.params == {"num_clusters": "1", "backbone.weights": "null"}
    assert found["t1"].data.metrics == {"unsup_miou": 41.0, "loss": 0.5}
    assert found["t1"].data.tags["usseg.reason"] == "out of memory"
    assert found["t1"].data.tags["a"] == "b"


def test_what_a_sweep_came_to_is_a_tag_of_its_own_run(folder: Path) -> None:
    with opened() as ledger:
        ledger.open_trial("t0", {}, {})
        ledger.tag({"usseg.answer": "it leads", "usseg.answer_command": "x http://me:pw@host/a"})
    found = runs(folder)
    assert found[SWEEP].data.tags["usseg.answer"] == "it leads"
    assert found[SWEEP].data.tags["usseg.answer_command"] == "x http://***@host/a"
    assert "usseg.answer" not in found["t0"].data.tags


def test_a_final_is_a_child_of_its_trial_and_found_again(folder: Path) -> None:
    for score in (33.0, 99.0):
        with opened() as ledger:
            ledger.open_trial("t0", {}, {})
            name = ledger.open_final("t0", 3, {"seed": 3}, {"usseg.protocol": "test"})
            ledger.log_baselines({"position": 20.0})
            ledger.log(name, {"unsup_miou": score}, step=0)
            ledger.close_trial(name, "FINISHED")
    found = runs(folder)
    assert sorted(found) == [SWEEP, "t0", "t0-seed3"]
    final = found["t0-seed3"]
    assert final.data.tags["mlflow.parentRunId"] == found["t0"].info.run_id
    assert final.data.tags["usseg.trial"] == "t0"
    assert final.data.tags["usseg.seed"] == "3"
    assert final.data.params == {"seed": "3"}
    assert final.data.metrics == {"unsup_miou": 33.0}
    assert final.info.status == "FINISHED"


BASELINES = {"position": 20.2, "linear": 60.0, "kmeans": 33.1, "colour": 21.5}


def test_baselines_stand_beside_every_trial_whenever_it_opens(folder: Path) -> None:
    with opened() as ledger:
        ledger.open_trial("before", {}, {})
        ledger.log_baselines(BASELINES)
        ledger.open_trial("after", {}, {})
    expected = {f"baseline.{name}": score for name, score in BASELINES.items()}
    assert all(run.data.metrics == expected for run in runs(folder).values())
    told = {run.data.tags["usseg.beside"] for run in runs(folder).values()}
    assert told == {"colour 21.5, position 20.2, kmeans 33.1, linear 60.0"}
    assert len(runs(folder)) == 3


def test_the_data_is_an_input_of_every_run_once(folder: Path) -> None:
    for _ in range(2):
        with opened() as ledger:
            ledger.open_trial("t", {}, {})
            ledger.open_final("t", 3, {}, {})
    for run in runs(folder).values():
        ((dataset, *others),) = [[one.dataset for one in run.inputs.dataset_inputs]]
        assert others == []
        assert (dataset.name, dataset.digest) == ("scenes", "abc")
        assert json.loads(dataset.source) == {"uri": "s3://***@host/scenes"}


def test_a_models_metrics_are_linked_with_it_and_with_the_data(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "MLmodel").write_text("flavors: {}\n")
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
        ledger.log("t", {"loss": 1.0}, step=0)
        ledger.log("t", {"test.unsup_miou": 31.0, "test.unsup_acc": 60.0}, step=0)
        ledger.log_model("t", folder / "model")
        ledger.log_model("t", folder / "model")
    run = runs(folder)["t"]
    assert run.data.metrics == {"loss": 1.0, "test.unsup_miou": 31.0, "test.unsup_acc": 60.0}
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (model,) = client.search_logged_models([run.info.experiment_id])
    linked = {m.key: (m.value, m.dataset_name, m.dataset_digest) for m in model.metrics or ()}
    assert linked == {
        "test.unsup_miou": (31.0, "scenes", "abc"),
        "test.unsup_acc": (60.0, "scenes", "abc"),
    }
    assert len(client.get_metric_history(run.info.run_id, "test.unsup_miou")) == 1


def test_values_that_are_not_numbers_are_counted_and_not_logged(folder: Path) -> None:
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
        ledger.log("t", {"loss": math.nan, "unsup_miou": 12.0}, step=0)
        ledger.log("t", {"loss": math.inf}, step=1)
    run = runs(folder)["t"]
    assert run.data.metrics == {"unsup_miou": 12.0}
    assert run.data.tags["usseg.nonfinite_values"] == "2"


def test_a_long_setting_is_cut_to_what_mlflow_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    with opened(note="x" * 10_000):
        pass
    assert runs(folder)[SWEEP].data.params["note"] == "x" * 6000


CRASH = f"""
import os, signal
from usseg_ray.tracking.ledger import Ledger
from pathlib import Path
folder = Path("runs", {SWEEP!r})
ledger = Ledger.open(None, "usseg", {SWEEP!r}, params={{"seed": 0}}, tags={{}}, folder=folder)
for trial in ("done", "half", "never_again"):
    ledger.open_trial(trial, {{"gamma": 1.5}}, {{}})
    for epoch in range(3):
        ledger.log(trial, {{"unsup_miou": 10.0 + epoch}}, step=epoch)
ledger.log("half", {{"loss": float("nan")}}, step=2)
ledger.close_trial("done", "FINISHED")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_sweep_goes_on_in_its_own_runs(folder: Path, store: Path) -> None:
    store.unlink()  # the one that is killed makes it
    crashed = in_fresh_interpreter(CRASH)
    assert crashed.returncode == -signal.SIGKILL
    assert crashed.stdout + crashed.stderr == "", "opening a new store should be silent"
    before = runs(folder)
    with opened(seed=0) as ledger:
        ledger.open_trial("half", {"gamma": 9.0, "alpha": 1}, {})
        for epoch in (1, 2, 3):
            ledger.log("half", {"unsup_miou": 99.0}, step=epoch)
        ledger.log("half", {"loss": math.inf}, step=3)
        ledger.close_trial("half", "FINISHED")
    after = runs(folder)
    assert all(after[name].info.run_id == run.info.run_id for name, run in before.items())
    finished = dict.fromkeys((SWEEP, "done", "half"), "FINISHED")
    assert statuses(folder) == finished | {"never_again": "KILLED"}
    client = MlflowClient(ledger.uri)
    history = client.get_metric_history(after["half"].info.run_id, "unsup_miou")
    assert [point.step for point in history] == [0, 1, 2, 3]
    assert [point.value for point in history] == [10.0, 11.0, 12.0, 99.0]
    assert after["half"].data.params == {"gamma": "1.5", "alpha": "1"}
    assert after["half"].data.tags["usseg.nonfinite_values"] == "2"
    assert after["half"].data.metrics["changed.gamma"] == 9.0
    assert after["done"].data.metrics == {"unsup_miou": 12.0}
    assert sorted(path.name for path in (folder / "runs" / SWEEP).iterdir()) == []


def test_what_sums_a_sweep_up_is_of_its_last_life(folder: Path) -> None:
    for best in (50.0, 60.0, 60.0):
        with opened() as ledger:
            ledger.open_trial("t", {}, {})
            ledger.log_baselines({"position": best - 30})
            ledger.log("t", {"unsup_miou": best}, step=3)
            for run in ("t", None):
                ledger.log(run, {"test.unsup_miou": best}, 0, summary=True)
            ledger.log("t", {"label_free.consensus": best / 100}, 3, summary=True)
            ledger.close_trial("t", "FINISHED")
    found, client = runs(folder), MlflowClient(ledger.uri)
    last = {"test.unsup_miou": 60.0, "baseline.position": 30.0}
    assert found[SWEEP].data.metrics == last
    # A point of a curve stays what it was.
    assert found["t"].data.metrics == last | {"label_free.consensus": 0.6, "unsup_miou": 50.0}
    for name, run in found.items():
        values = client.get_metric_history(run.info.run_id, "test.unsup_miou")
        assert [value.value for value in values] == [50.0, 60.0], name


def test_a_reopened_trial_loses_the_reason_of_its_earlier_end(folder: Path) -> None:
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
    assert "usseg.reason" in runs(folder)["t"].data.tags
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
        eventually(lambda: statuses(folder)["t"] == "RUNNING")
        ledger.close_trial("t", "FINISHED")
    assert "usseg.reason" not in runs(folder)["t"].data.tags


@pytest.mark.parametrize(
    ("end", "error", "status"),
    [
        (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, "KILLED"),
        (lambda: sys.exit(143), SystemExit, "KILLED"),
        (lambda: math.sqrt(-1), ValueError, "FAILED"),
    ],
)
def test_nothing_stays_running_however_a_sweep_ends(
    folder: Path, end: Callable[[], object], error: type[BaseException], status: str
) -> None:
    def interrupted() -> None:
        with opened() as ledger:
            ledger.open_trial("t", {}, {})
            end()

    with pytest.raises(error):
        interrupted()
    assert statuses(folder) == {SWEEP: status, "t": "KILLED"}


def test_closing_twice_keeps_the_first_answer(folder: Path) -> None:
    with opened() as ledger:
        ledger.close("KILLED")
        ledger.close("FINISHED")
    assert statuses(folder) == {SWEEP: "KILLED"}


@pytest.mark.parametrize(
    ("header", "again"),
    [
        ("http://***@lab:5000", lambda home: deliver(None, "usseg", SWEEP, home, print)),
        ("http://lab:5000", lambda _: opened()),
    ],
)
def test_records_that_wait_for_a_store_go_to_no_other(
    folder: Path, header: str, again: Callable[[Path], object]
) -> None:
    home = folder / "runs" / SWEEP
    spool = Spool(home)
    spool.append(Operation("store", None, 0, {"uri": header}))
    spool.append(Operation("log", "t", 0, {"metrics": {"unsup_miou": 44.0}, "step": 4}))
    spool.close()
    kept = (home / SPOOL_FILE).read_bytes()
    with pytest.raises(UserError, match=f"{re.escape(header)}, and .*\n.*MLFLOW_TRACKING_URI"):
        again(home)
    assert (home / SPOOL_FILE).read_bytes() == kept
    assert MlflowClient(f"sqlite:///{folder}/mlflow.db").get_experiment_by_name("usseg") is None


def test_a_name_with_an_apostrophe_is_found_again(folder: Path) -> None:
    for _ in range(2):
        opened(sweep="anna's").close("FINISHED")
    assert statuses(folder) == {"anna's": "FINISHED"}


def test_a_trials_pictures_and_tables_are_uploaded_once(folder: Path) -> None:
    source = trial_folder(folder / "trial")
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
        for _ in range(2):
            ledger.attach("t", source)
    run = runs(folder)["t"]
    stored = folder / "mlartifacts" / run.info.run_id / "artifacts"
    assert sorted(str(path.relative_to(stored)) for path in stored.rglob("*.*")) == [
        "config.yaml",
        "confusion.csv",
        "examples.npz",
        "per_class.json",
        "pictures/mosaic.png",
    ]
    table = MlflowClient(ledger.uri).load_table(
        run.info.experiment_id, "per_class.json", [run.info.run_id]
    )
    assert table.to_dict("list") == {"class": ["sky", "road"], "iou": [91.0, 80.0]}


def test_no_secret_reaches_the_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wJalrXUtnFEMI-planted-K7MDENG"
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, secret)
    with opened() as ledger:
        ledger.open_trial("t", {"seed": 0}, {})
        ledger.attach("t", trial_folder(folder / "trial"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_the_dashboard_command_names_the_store_absolutely(folder: Path) -> None:
    with opened("sqlite:///mlflow.db") as ledger:
        command, address = ledger.dashboard()
    experiment = runs(folder)[SWEEP].info.experiment_id
    assert command.startswith("MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=f")
    assert command.endswith(f" ui --backend-store-uri sqlite:///{folder}/mlflow.db")
    view = re.fullmatch(
        rf"http://127.0.0.1:5000/#/experiments/{experiment}/runs\?viewStateShareKey=([\w-]+)",
        address,
    )
    assert view is not None
    kept = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_experiment(experiment).tags
    state = json.loads(kept[f"mlflow.sharedViewState.{view[1]}"])
    query = f"tags.`usseg.sweep` = '{SWEEP}' AND tags.`usseg.role` = 'trial'"
    assert state["searchFilter"] == query


def test_every_sweep_has_a_view_of_its_own_trials(folder: Path) -> None:
    addresses = []
    for sweep in ("one", "it's"):
        with opened(sweep=sweep) as ledger:
            addresses.append(ledger.dashboard()[1])
            ledger.open_trial(f"t of {sweep}", {}, {})
            ledger.open_final(f"t of {sweep}", 1, {}, {})
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("usseg")
    assert experiment is not None
    for sweep, address in zip(("one", "it's"), addresses, strict=True):
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{address.rpartition('=')[2]}"])
        found = client.search_runs([experiment.experiment_id], view["searchFilter"])
        assert [run.info.run_name for run in found] == [f"t of {sweep}"]


@pytest.mark.usefixtures("store")
def test_a_sweep_has_one_writer(folder: Path) -> None:
    with opened(), pytest.raises(UserError, match="another process is writing"):
        opened()
