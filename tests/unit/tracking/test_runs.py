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
