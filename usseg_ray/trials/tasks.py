"""What is scored beside the trials: baselines of the same data.

They leave a file in the sweep's folder, so that a resumed sweep does not repeat them. Where trials
take all that a cluster has, a trial's process computes them before it trains; elsewhere a Ray task
that asks for as much as one training process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.tune

from usseg_ray.cluster.ray_stream import users_mistakes
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.engine.baselines import Baselines
from usseg_ray.trials import worker
from usseg_ray.trials.job import Job
from usseg_ray.trials.storage import Storage, opened

NODE_LOSSES = 3
"""How often a task that lost its machine is started on another one."""

BASELINES_FILE = "baselines.json"


class BaselineTask:
    """The baselines of a sweep, which are computed beside its trials.

    Args:
        job: Any trial's; data, protocol and backbone are taken from it. `None` for data without
            labels, which has no baselines.
        storage: The sweep's folder, which may have them from an earlier life.
    """

    def __init__(self, job: Job | None, storage: Storage) -> None:
        self._job, self._storage = job, storage
        self._pending: ray.ObjectRef | None = None

    @property
    def open_job(self) -> Job | None:
        """What is left to compute, and nobody is at; `None` where nothing is."""
        return None if self._pending is not None or self.are_there else self._job

    @property
    def are_there(self) -> bool:
        """Whether they are known, or there are none."""
        return self._job is None or load_baselines(self._storage.folder) is not None

    @property
    def is_running(self) -> bool:
        """Whether a task of their own is at them."""
        return self._pending is not None and not ray.wait([self._pending], timeout=0)[0]

    def start(self) -> None:
        """Has a task of their own compute them, if they are left."""
        if (job := self.open_job) is not None:
            self._pending = as_task(worker.baselines, job).remote(job)

    def fetch(self) -> None:
        """Takes note that a trial's process has computed them."""
        self._storage.fetch(BASELINES_FILE)

    def so_far(self) -> Baselines:
        """Returns the baselines if they are there, else nothing."""
        if self._pending is not None and not self.is_running:
            return self.wait()
        return load_baselines(self._storage.folder) or {}

    def wait(self) -> Baselines:
        """Waits for the baselines, which are computed now if nobody did; empty without labels."""
        self.start()
        if self._pending is not None:
            with users_mistakes():
                found = ray.get(self._pending)
            save_baselines(found, self._storage.folder)
            self._storage.push(BASELINES_FILE)
            self._pending = None
        return load_baselines(self._storage.folder) or {}


def baselines_here(job: Job, place: str) -> None:
    """Computes baselines in the process that Tune gave to a trial, and reports that they are there.

    Args:
        job: Any trial's.
        place: The sweep's folder, or its URI.
    """
    with opened(place) as storage:
        save_baselines(worker.baselines(job), storage.folder)
        storage.push(BASELINES_FILE)
    ray.tune.report({"baselines": 1})


def save_baselines(found: Baselines, folder: Path) -> None:
    """Writes baselines into a sweep's folder."""
    write_json(folder / BASELINES_FILE, found)


def load_baselines(folder: Path) -> Baselines | None:
    """Reads a sweep's baselines; `None` where there are none, or a damaged file of them."""
    try:
        return read_json(folder / BASELINES_FILE, Baselines, "They are computed again.")
    except (FileNotFoundError, DamagedError):
        return None


def as_task(function: Callable[..., Any], job: Job) -> Any:  # noqa: ANN401
    """Makes a Ray task that asks for as much as one training process of a job."""
    share = job.config.resources
    # max_calls: its process ends with it, and gives its memory back.
    return ray.remote(
        num_cpus=share.cpus_per_worker,
        num_gpus=share.gpus_per_worker if job.placement.device == "cuda" else 0,
        max_retries=NODE_LOSSES,
        max_calls=1,
    )(function)
