"""A store that goes away in mid-sweep, refuses, or is left by a process that was killed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.integration.ledgers import (
    MARKS,
    SWEEP,
    Line,
    eventually,
    in_fresh_interpreter,
    opened,
    runs,
    statuses,
    trial_folder,
)
from tests.room import no_room
from usseg_ray.core.errors import UserError
from usseg_ray.tracking.ledger import deliver
from usseg_ray.tracking.runs import HEARTBEAT_TAG, PROCESS_TAG, Runs, this_process
from usseg_ray.tracking.spool import SPOOL_FILE, Operation

pytestmark = MARKS

LONG_AGO = "2026-01-02T03:04:05+00:00"


def points(uri: str, run: Run, key: str) -> list[tuple[int, float]]:
    history = MlflowClient(uri).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in history]


@pytest.fixture
def line(server: str) -> Iterator[Line]:
    """A line to the server that can be cut."""
    line = Line(int(server.rpartition(":")[2]))
    yield line
    line.cut()


@pytest.mark.slow
def test_a_server_that_is_away_costs_neither_time_nor_metrics(
    folder: Path, server: str, line: Line
) -> None:
    said: list[str] = []
    with opened(line.uri, "away", say=said.append) as ledger:
        ledger.open_trial("t", {}, {})
        eventually(lambda: "t" in runs(folder, server, "away"))
        line.cut()
        start = time.monotonic()
        for epoch in range(300):
            ledger.log("t", {"unsup_miou": float(epoch)}, step=epoch)
        ledger.open_trial("u", {}, {})
        ledger.attach("u", trial_folder(folder / "trial"))
        assert time.monotonic() - start < 5
        eventually(lambda: bool(said))
        ledger.close_trial("t", "FINISHED")
        line.mend()
    found = runs(folder, server, "away")
    assert points(server, found["t"], "unsup_miou") == [(n, float(n)) for n in range(300)]
    ends = {name: run.info.status for name, run in found.items()}
    assert ends == {"away": "FINISHED", "t": "FINISHED", "u": "KILLED"}
    assert {file.path for file in MlflowClient(server).list_artifacts(found["u"].info.run_id)} == {
        "config.yaml",
        "confusion.csv",
        "examples.npz",
        "per_class.json",
        "pictures",
    }
    (away,) = [line for line in said if "does not answer (" in line]
    assert str(folder / "runs" / "away") in away
    assert len([line for line in said if "is back" in line]) == 1


def test_a_full_folder_costs_no_metrics(folder: Path, server: str) -> None:
    said: list[str] = []
    with opened(server, "full", say=said.append) as ledger:
        ledger.open_trial("t", {}, {})
        ledger.log("t", {"unsup_miou": 0.0}, step=0)
        with no_room(folder / "runs" / "full" / SPOOL_FILE):
            for epoch in range(1, 40):
                ledger.log("t", {"unsup_miou": float(epoch)}, step=epoch)
            eventually(lambda: any("disk full?" in line for line in said))
        ledger.log("t", {"unsup_miou": 40.0}, step=40)
        ledger.close_trial("t", "FINISHED")
    found = runs(folder, server, "full")
    assert points(server, found["t"], "unsup_miou") == [(n, float(n)) for n in range(41)]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert not any("does not answer" in line for line in said)


@pytest.mark.slow
def test_what_a_server_never_took_is_taken_later(
    folder: Path, server: str, line: Line, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    ledger = opened(line.uri, "later", say=said.append)
    ledger.open_trial("t", {"seed": 0}, {})
    eventually(lambda: "t" in runs(folder, server, "later"))
    line.cut()
    ledger.log("t", {"unsup_miou": 12.0}, step=0)
    ledger.close("FINISHED", patience_s=0.5)
    home = folder / "runs" / "later"
    assert "away: " in said[-1]
    assert f"python -m usseg_ray.report {home}" in said[-1]
    assert (home / "tracking.jsonl").exists()
    line.mend()
    deliver(None, "usseg", "later", home, said.append)
    found = runs(folder, server, "later")
    assert points(server, found["t"], "unsup_miou") == [(0, 12.0)]
    assert {run.info.status for run in found.values()} == {"FINISHED", "KILLED"}
    assert list(home.iterdir()) == []
    assert not (folder / "mlflow.db").exists()
    assert capfd.readouterr() == ("", "")


def test_what_is_refused_holds_up_nothing(folder: Path) -> None:
    said: list[str] = []
    with opened(say=said.append) as ledger:
        ledger.open_trial("t", {}, {})
        ledger.log("nobody", {"unsup_miou": 1.0}, step=0)
        source = trial_folder(folder / "trial")
        ledger.attach("t", source)
        ledger.log("t", {"unsup_miou": 12.0}, step=0)
        ledger.close_trial("t", "FINISHED")
    assert points(ledger.uri, runs(folder)["t"], "unsup_miou") == [(0, 12.0)]
    assert statuses(folder) == {SWEEP: "FINISHED", "t": "FINISHED"}
    assert len([line for line in said if "refuses 'log' of nobody" in line]) == 1


def test_a_sweep_has_one_writer(folder: Path) -> None:
    with opened(), pytest.raises(UserError, match="another process is writing"):
        opened()


KILLED = """
import os, signal, time
from pathlib import Path
from usseg_ray.tracking.ledger import Ledger
ledger = Ledger.open(None, "usseg", "dead", params={}, tags={}, folder=Path("runs/dead"))
ledger.open_trial("trial_of_the_dead", {}, {})
while len(ledger._writer._spool):
    time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_runs_of_dead_processes_are_closed_with_the_reason(folder: Path) -> None:
    in_fresh_interpreter(KILLED)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = runs(folder)
    assert statuses(folder) == {"dead": "RUNNING", "trial_of_the_dead": "RUNNING"}
    assert all(run.data.tags[PROCESS_TAG] != this_process() for run in found.values())

    opened(sweep="other").close("FINISHED")
    assert statuses(folder)["dead"] == "RUNNING", "its heartbeat is a few seconds old"

    experiment = found["dead"].info.experiment_id
    lost = {PROCESS_TAG: this_process(), "usseg.sweep": "lost", HEARTBEAT_TAG: LONG_AGO}
    client.create_run(experiment, tags=lost, run_name="lost")
    client.create_run(experiment, run_name="foreign")
    for run in found.values():
        client.set_tag(run.info.run_id, HEARTBEAT_TAG, LONG_AGO)
    opened(sweep="other").close("FINISHED")
    killed = dict.fromkeys(("dead", "trial_of_the_dead"), "KILLED")
    left = {"other": "FINISHED", "lost": "RUNNING", "foreign": "RUNNING"}
    assert statuses(folder) == killed | left
    assert LONG_AGO in runs(folder)["dead"].data.tags["usseg.reason"]


def test_a_run_that_was_taken_for_dead_lives_on(folder: Path) -> None:
    with opened() as ledger:
        client = MlflowClient(ledger.uri)
    book = Runs(client, runs(folder)[SWEEP].info.experiment_id, SWEEP)
    book.apply([Operation("open", "t", 0, {"params": {}, "tags": {}, "keys": {}, "parent": None})])
    run_id = runs(folder)["t"].info.run_id
    client.set_tag(run_id, HEARTBEAT_TAG, LONG_AGO)
    book.beat()
    assert runs(folder)["t"].data.tags[HEARTBEAT_TAG] > LONG_AGO
    client.set_terminated(run_id, "KILLED")
    client.set_tag(run_id, "usseg.reason", "silence")
    book.revive()
    assert statuses(folder)["t"] == "RUNNING"
    assert "usseg.reason" not in runs(folder)["t"].data.tags
