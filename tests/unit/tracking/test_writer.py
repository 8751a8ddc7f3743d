"""A store that goes away in mid-sweep, comes back or refuses: nothing is lost, nobody waits."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.ledgers import (
    SWEEP,
    Line,
    eventually,
    opened,
    runs,
    statuses,
    trial_folder,
)
from tests.room import no_room
from usseg_ray.tracking.ledger import deliver
from usseg_ray.tracking.spool import SPOOL_FILE


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


def test_a_screen_that_is_gone_costs_no_metrics(folder: Path, server: str) -> None:
    asked: list[str] = []

    def say(line: str) -> None:
        asked.append(line)
        raise BrokenPipeError

    with opened(server, "silent", say=say) as ledger:
        ledger.open_trial("t", {}, {})
        with no_room(folder / "runs" / "silent" / SPOOL_FILE):
            ledger.log("t", {"unsup_miou": 1.0}, step=1)
            eventually(lambda: bool(asked))
        ledger.log("t", {"unsup_miou": 2.0}, step=2)
        ledger.close_trial("t", "FINISHED")
    found = runs(folder, server, "silent")
    assert points(server, found["t"], "unsup_miou") == [(1, 1.0), (2, 2.0)]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


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


@pytest.mark.usefixtures("store")
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
