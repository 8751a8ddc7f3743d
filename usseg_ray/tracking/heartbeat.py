"""Which runs still have a process behind them: heartbeats, and the end of what has none.

A run is taken for dead when its heartbeat has stopped and its process, where it was one of this
machine, is gone.
"""

import contextlib
import os
import socket
from datetime import UTC, datetime, timedelta

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from usseg_ray.tracking.store import REASON_TAG, SWEEP_TAG, search

HEARTBEAT_TAG, PROCESS_TAG = "usseg.heartbeat", "usseg.process"

BEAT_S = 30.0

SILENT = timedelta(minutes=5)


def now() -> str:
    """Returns the time as heartbeats write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_process() -> str:
    """Names this process: host, id and start, since ids are used again."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"


def reap(client: MlflowClient, experiment_id: str, sweep: str) -> int:
    """Closes as KILLED the runs of other sweeps whose heartbeat has stopped.

    Runs without a heartbeat are not this package's to close, and what a process of this machine
    that still lives has written is left alone: it may only have lost the store for a while.

    Args:
        client: Of the store.
        experiment_id: MLflow's id of the experiment.
        sweep: Key of the sweep that asks; its own runs are reopened or closed by itself.

    Returns:
        How many runs were closed.
    """
    running = search(client, experiment_id, "attributes.status = 'RUNNING'")
    dead = [run for run in running if run.data.tags.get(SWEEP_TAG) != sweep and _is_dead(run)]
    for run in dead:
        last = run.data.tags[HEARTBEAT_TAG]
        reason = f"its process ended without a word; the last heartbeat was at {last}"
        client.set_tag(run.info.run_id, REASON_TAG, reason)
        ended = int(datetime.fromisoformat(last).timestamp() * 1000)
        client.set_terminated(run.info.run_id, "KILLED", ended)
    return len(dead)


def _is_dead(run: Run) -> bool:
    last = run.data.tags.get(HEARTBEAT_TAG)
    if last is None or datetime.now(UTC) - datetime.fromisoformat(last) < SILENT:
        return False
    return not _lives(run.data.tags.get(PROCESS_TAG, ""))


def _lives(process: str) -> bool:
    host, *rest = process.split(" ")
    if host != socket.gethostname() or len(rest) != 2:
        return False
    with contextlib.suppress(psutil.Error, ValueError):
        return f"{psutil.Process(int(rest[0])).create_time():.0f}" == rest[1]
    return False
