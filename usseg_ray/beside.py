"""What is scored beside the trials: baselines of the same data, and the test split, once.

Both run as Ray tasks that ask for as much as one training process, and leave a file in the sweep's
folder, so that a resumed sweep does not repeat them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from usseg_ray import worker
from usseg_ray.baselines import Baselines
from usseg_ray.job import Draw, Job, Jobs
from usseg_ray.trials import Trial

BASELINES_FILE, FINAL_FILE = "baselines.json", "final.json"

Finals = dict[str, dict[str, float]]
"""Method -> test metrics of its best trial, in percent; the sweep's best method first."""


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


def score_finals(jobs: Jobs, best: list[Trial], folder: Path) -> Finals:
    """Scores trials on the test split: once in the life of a sweep.

    Args:
        jobs: The sweep's jobs.
        best: Best trial of each method, the sweep's best first.
        folder: The sweep's folder.

    Returns:
        Test metrics in the order of `best`, those of an earlier life included.
    """
    path = folder / FINAL_FILE
    found = json.loads(path.read_text()) if path.exists() else {}
    pending = []
    for trial in best:
        if trial.method not in found:
            job = jobs.job(Draw(trial.method, trial.sample))
            target = str(final_folder(folder, trial.method))
            home = str(folder / trial.name)
            task = as_task(worker.final_score, job).remote(job, trial.checkpoint, home, target)
            pending.append((trial, task))
    for trial, task in pending:
        found[trial.method] = {"trial": trial.name, "metrics": ray.get(task)}
        path.write_text(json.dumps(found, indent=1))
    return {trial.method: found[trial.method]["metrics"] for trial in best}


def final_folder(folder: Path, method: str) -> Path:
    """Says where the test evaluation of a method's best trial lies."""
    return folder / "final" / method


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
