"""Runs that are found again, and revived when they were taken for dead."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.ledgers import (
    SWEEP,
    opened,
    runs,
    statuses,
)
from usseg_ray.tracking.heartbeat import HEARTBEAT_TAG
from usseg_ray.tracking.runs import Runs
from usseg_ray.tracking.spool import Operation

LONG_AGO = "2026-01-02T03:04:05+00:00"


@pytest.mark.usefixtures("store")
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


@pytest.mark.usefixtures("store")
def test_of_a_run_that_has_ended_only_what_is_logged_again_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened() as ledger:
        ledger.open_trial("t", {"lr": 0.1}, {})
        for step in (1, 2):
            ledger.log("t", {f"metric_{n}": n + step for n in range(20)}, step)
        ledger.close_trial("t", "FINISHED")
    client, read = MlflowClient(ledger.uri), list[str]()
    whole = client.get_metric_history

    def noted(run_id: str, key: str) -> object:
        read.append(key)
        return whole(run_id, key)

    monkeypatch.setattr(client, "get_metric_history", noted)
    book = Runs(client, runs(folder)[SWEEP].info.experiment_id, SWEEP)
    later = {"metric_3": 9.0, "consensus": 0.5}
    book.apply([Operation("log", "t", 0, {"metrics": later, "step": 2})])
    book.apply([Operation("log", "t", 0, {"metrics": later, "step": 3})])
    assert read == ["metric_3"]
    found = runs(folder)["t"]
    # A step that it has is passed over.
    history = {value.step: value.value for value in whole(found.info.run_id, "metric_3")}
    assert history == {1: 4.0, 2: 5.0, 3: 9.0}
    assert len(whole(found.info.run_id, "consensus")) == 2
    # A setting that has changed since is logged at the last step of all.
    again = {"params": {"lr": 0.2}, "tags": {}, "keys": {}, "parent": None}
    book.apply([Operation("open", "t", 0, again)])
    (changed,) = whole(found.info.run_id, "changed.lr")
    assert (changed.step, len(read)) == (3, 20)
