"""Runs are closed when their process is dead, and not when it lives or is nobody's."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.ledgers import in_fresh_interpreter, opened, runs, statuses
from usseg_ray.tracking.heartbeat import HEARTBEAT_TAG, PROCESS_TAG, this_process

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
