"""What is scored beside the trials: baselines of the same data.

They run as a Ray task that asks for as much as one training process, and leave a file in the
sweep's folder, so that a resumed sweep does not repeat them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from usseg_ray import worker
from usseg_ray.baselines import Baselines
from usseg_ray.job import Job

BASELINES_FILE = "baselines.json"


def start_baselines(job: Job, folder: Path) -> Any | None:  # noqa: ANN401
    """Starts the baselines, unless the folder has them from an earlier life.

    Args:
        job: Any trial's; data, protocol and backbone are taken from it.
        folder: The sweep's folder.

    Returns:
        What `finish_baselines` waits for.
    """
    if (folder / BASELINES_FILE).exists():
        return None
    return as_task(worker.baselines, job).remote(job)


def finish_baselines(pending: Any | None, folder: Path) -> Baselines:  # noqa: ANN401
    """Waits for the baselines, or reads those of an earlier life; empty without labels."""
    path = folder / BASELINES_FILE
    if pending is not None:
        path.write_text(json.dumps(ray.get(pending), indent=1))
    return json.loads(path.read_text()) if path.exists() else {}


def as_task(function: Callable[..., Any], job: Job) -> Any:  # noqa: ANN401
    """Makes a Ray task that asks for as much as one training process of a job."""
    share = {k.removeprefix("resources."): v for k, v in job.settings.items()}
    # max_calls: its process ends with it, and gives its memory back.
    return ray.remote(
        num_cpus=share["cpus_per_worker"],
        num_gpus=share["gpus_per_worker"] if job.device == "cuda" else 0,
        max_retries=1,
        max_calls=1,
    )(function)
