"""Runs that are found again, reaped when their process is dead, and revived when it is not."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.ledgers import (
    SWEEP,
    in_fresh_interpreter,
    opened,
    runs,
    statuses,
)
from usseg_ray.tracking.runs import HEARTBEAT_TAG, PROCESS_TAG, Runs, this_process
from usseg_ray.tracking.spool import Operation

LONG_AGO = "2026-01-02T03:04:05+00:00"


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


@pytest.mark.usefixtures("store")
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
