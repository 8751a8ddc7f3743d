"""The ledger against real MLflow stores: SQLite, a server, and the ways in which both fail."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from tests.conftest import PROJECT
from usseg_ray.config import UserError
from usseg_ray.pictures import save
from usseg_ray.tracking import Ledger

pytestmark = [
    pytest.mark.ray,
    # MLflow maps its tables with a loader strategy that SQLAlchemy 2.1 has deprecated.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

SWEEP = "acseg-on-synthetic"
# Each of these alone turns a telemetry off, and would hide that the package does not.
TELEMETRY_SETTINGS = (
    "CI",
    "GITHUB_ACTIONS",
    "PYTEST_CURRENT_TEST",
    "DO_NOT_TRACK",
    "MLFLOW_DISABLE_TELEMETRY",
    "RAY_USAGE_STATS_ENABLED",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no store named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def opened(uri: str | None = None, **more: Any) -> Ledger:
    return Ledger.open(uri, "usseg", SWEEP, params=more, tags={"usseg.data_digest": "abc"})


def runs(folder: Path) -> dict[str, Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("usseg")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    names = [str(run.info.run_name) for run in found]
    assert len(names) == len(set(names)), f"a run appears twice: {names}"
    return {str(run.info.run_name): run for run in found}


def statuses(folder: Path) -> dict[str, str]:
    return {name: run.info.status for name, run in runs(folder).items()}


def in_fresh_interpreter(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in os.environ if name not in TELEMETRY_SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"PYTHONPATH": str(PROJECT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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


def test_baselines_stand_beside_every_trial_whenever_it_opens(folder: Path) -> None:
    with opened() as ledger:
        ledger.open_trial("before", {}, {})
        ledger.log_baselines({"position": 20.2, "colour": 21.5})
        ledger.open_trial("after", {}, {})
    expected = {"baseline.position": 20.2, "baseline.colour": 21.5}
    assert all(run.data.metrics == expected for run in runs(folder).values())
    assert len(runs(folder)) == 3


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
from usseg_ray.tracking import Ledger
ledger = Ledger.open(None, "usseg", {SWEEP!r}, params={{"seed": 0}}, tags={{}})
for trial in ("done", "half", "never_again"):
    ledger.open_trial(trial, {{"gamma": 1.5}}, {{}})
    for epoch in range(3):
        ledger.log(trial, {{"unsup_miou": 10.0 + epoch}}, step=epoch)
ledger.log("half", {{"loss": float("nan")}}, step=2)
ledger.close_trial("done", "FINISHED")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_sweep_goes_on_in_its_own_runs(folder: Path) -> None:
    crashed = in_fresh_interpreter(CRASH)
    assert crashed.returncode == -signal.SIGKILL
    assert crashed.stdout + crashed.stderr == "", "opening a new store should be silent"
    unfinished = dict.fromkeys((SWEEP, "half", "never_again"), "RUNNING")
    assert statuses(folder) == unfinished | {"done": "FINISHED"}
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
    assert after["done"].info.end_time == before["done"].info.end_time


def test_a_reopened_trial_loses_the_reason_of_its_earlier_end(folder: Path) -> None:
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
    assert "usseg.reason" in runs(folder)["t"].data.tags
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
        assert statuses(folder)["t"] == "RUNNING"
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


def test_a_name_with_an_apostrophe_is_found_again(folder: Path) -> None:
    for _ in range(2):
        Ledger.open(None, "usseg", "anna's", params={}, tags={}).close("FINISHED")
    assert statuses(folder) == {"anna's": "FINISHED"}


def trial_folder(at: Path) -> Path:
    save(Image.new("RGB", (4, 4), "red"), at / "pictures" / "mosaic.png")
    (at / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    (at / "confusion.csv").write_text("1,0\n0,1\n", encoding="utf-8")
    (at / "examples.npz").write_bytes(b"arrays")
    (at / "checkpoint.pt").write_bytes(b"stays where it is")
    rows = [{"class": "sky", "iou": 91.0}, {"class": "road", "iou": 80.0}]
    (at / "per_class.json").write_text(json.dumps(rows), encoding="utf-8")
    return at


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
    assert command.startswith("MLFLOW_DISABLE_TELEMETRY=true ")
    assert command.endswith(f" ui --backend-store-uri sqlite:///{folder}/mlflow.db")
    assert address == (
        f"http://127.0.0.1:5000/#/experiments/{experiment}/runs"
        "?orderByKey=metrics.%60unsup_miou%60&orderByAsc=false"
    )


def test_a_deleted_experiment_is_explained(folder: Path) -> None:
    with opened() as ledger:
        pass
    client = MlflowClient(ledger.uri)
    client.delete_experiment(
        client.search_experiments(filter_string="name='usseg'")[0].experiment_id
    )
    with pytest.raises(UserError, match="mlflow experiments restore"):
        opened()


@pytest.mark.parametrize("uri", ["file:///runs", "mlruns", "./mlruns"])
def test_a_folder_as_store_is_refused_with_the_way_on(uri: str) -> None:
    with pytest.raises(UserError, match=r"sqlite:///path/to/mlflow\.db"):
        opened(uri)


def test_a_file_that_is_no_database_is_refused(folder: Path) -> None:
    (folder / "mlflow.db").write_text("seed: 0\n" * 1000, encoding="utf-8")
    with pytest.raises(UserError, match=r"mlflow.db cannot be used: file is not a database"):
        opened()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_closed_port_fails_in_seconds_and_hides_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:hunter2@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    start = time.monotonic()
    with pytest.raises(UserError, match="Connection refused") as failure:
        opened()
    assert time.monotonic() - start < 10
    assert f"anna:***@127.0.0.1:{port}" in str(failure.value)
    assert "hunter2" not in str(failure.value)
    assert len(str(failure.value).splitlines()) == 2
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


def test_a_server_that_never_answers_fails_in_seconds() -> None:
    start = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(UserError, match="timed out"),
    ):
        opened(f"http://127.0.0.1:{mute.getsockname()[1]}")
    assert time.monotonic() - start < 10


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """A real tracking server that keeps artifacts itself; ends with the test."""
    port = free_port()
    program = [sys.executable, "-m", "mlflow", "server", "--workers", "1", f"--port={port}"]
    store = ["--backend-store-uri=sqlite:///server.db", "--artifacts-destination=kept"]
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(program + store, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.mark.slow
def test_a_server_keeps_the_same_book(
    folder: Path, server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for epochs in (2, 3):
        with opened(server) as ledger:
            ledger.open_trial("t", {"seed": 0}, {})
            for epoch in range(epochs):
                ledger.log("t", {"unsup_miou": 10.0 + epoch}, step=epoch)
            ledger.attach("t", trial_folder(folder / "trial"))
            ledger.close_trial("t", "FINISHED")
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("usseg")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(map(str, found)) == [SWEEP, "t"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    history = client.get_metric_history(found["t"].info.run_id, "unsup_miou")
    assert [point.step for point in history] == [0, 1, 2]
    assert list((folder / "kept").rglob("pictures/mosaic.png"))
    assert not (folder / "mlflow.db").exists()
    command, address = ledger.dashboard()
    assert command == ""
    assert address.startswith(f"{server}/#/experiments/{experiment.experiment_id}/runs?")
    assert capfd.readouterr().out == ""


TELEMETRY = """
import usseg_ray.tracking
from mlflow.telemetry.client import get_telemetry_client
from ray._common.usage.usage_lib import usage_stats_enabled
print(get_telemetry_client(), usage_stats_enabled())
"""


def test_nothing_leaves_the_machine() -> None:
    assert in_fresh_interpreter(TELEMETRY).stdout.split() == ["None", "False"]


def test_a_users_own_telemetry_setting_wins() -> None:
    # MLflow itself stays unimported: with telemetry on it would call out.
    code = (
        "import os, usseg_ray; from ray._common.usage.usage_lib import usage_stats_enabled; "
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], usage_stats_enabled())"
    )
    chosen = {"MLFLOW_DISABLE_TELEMETRY": "false", "RAY_USAGE_STATS_ENABLED": "1"}
    assert in_fresh_interpreter(code, **chosen).stdout.split() == ["false", "True"]
