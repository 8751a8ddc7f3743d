"""Stores that fail, a store behind a server, and what stays on the machine."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.ledgers import (
    SWEEP,
    free_port,
    in_fresh_interpreter,
    opened,
    runs,
    trial_folder,
)
from usseg_ray.core.errors import UserError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("folder")]


@pytest.mark.usefixtures("store")
def test_a_deleted_experiment_is_explained(folder: Path) -> None:
    with opened() as ledger:
        pass
    client = MlflowClient(ledger.uri)
    client.delete_experiment(
        client.search_experiments(filter_string="name='usseg'")[0].experiment_id
    )
    with pytest.raises(UserError, match="mlflow experiments restore"):
        opened()


def test_first_sweeps_may_begin_together(folder: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from usseg_ray.tracking.ledger import Ledger\n"
        "where = {{'folder': Path('{0}'), 'params': {{}}, 'tags': {{}}}}\n"
        "Ledger.open(None, 'usseg', '{0}', **where).close('FINISHED')"
    )
    names = ("one", "two", "three")
    with ThreadPoolExecutor(len(names)) as pool:
        for done in pool.map(in_fresh_interpreter, map(code.format, names)):
            assert (done.returncode, done.stderr) == (0, "")
    assert set(runs(folder)) == set(names)
    assert not list(folder.glob("*.lock"))


@pytest.mark.parametrize("uri", ["file:///runs", "mlruns", "./mlruns"])
def test_a_folder_as_store_is_refused_with_the_way_on(uri: str) -> None:
    with pytest.raises(UserError, match=r"sqlite:///path/to/mlflow\.db"):
        opened(uri)


def test_a_file_that_is_no_database_is_refused(folder: Path) -> None:
    (folder / "mlflow.db").write_text("seed: 0\n" * 1000, encoding="utf-8")
    with pytest.raises(UserError, match=r"mlflow.db cannot be used: file is not a database"):
        opened()


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
    assert f"http://***@127.0.0.1:{port}" in str(failure.value)
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


@pytest.mark.slow
def test_a_server_keeps_the_same_book(
    folder: Path, server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    for epochs in (2, 3):
        with opened(server, say=said.append) as ledger:
            ledger.open_trial("t", {"seed": 0}, {})
            for epoch in range(epochs):
                ledger.log("t", {"unsup_miou": 10.0 + epoch}, step=epoch)
            ledger.attach("t", trial_folder(folder / "trial"))
            ledger.close_trial("t", "FINISHED")
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("usseg")
    assert experiment is not None
    found = runs(folder, server, SWEEP)
    assert sorted(found) == [SWEEP, "t"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    history = client.get_metric_history(found["t"].info.run_id, "unsup_miou")
    assert [point.step for point in history] == [0, 1, 2]
    assert client.list_artifacts(found["t"].info.run_id, "pictures")[0].path.endswith("mosaic.png")
    assert not (folder / "mlflow.db").exists()
    command, address = ledger.dashboard()
    assert command == ""
    assert address.startswith(f"{server}/#/experiments/{experiment.experiment_id}/runs?")
    assert capfd.readouterr() == ("", "")
    # A slow server is waited for, and that is said; nothing else is.
    assert [line for line in said if not line.startswith("Writing the last ")] == []


TELEMETRY = """
import usseg_ray.tracking.ledger
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
