"""What runs take of a disk: estimated before the first one, measured once it has ended."""

import shutil
from pathlib import Path

from usseg_ray import methods
from usseg_ray.engine.model import method_spec
from usseg_ray.features.store.rule import size
from usseg_ray.trials.job import Job

PICTURE_BYTES = 210
"""Of a run's pictures and of the arrays that they are drawn from, for each pixel of a scored square
(measured at 144 and 320 px)."""

_CHECKPOINTS = 3
"""The last two, and the one that scored best."""


def run_bytes(job: Job) -> int:
    """Estimates what a job's run keeps: checkpoints, pictures and what these are drawn from.

    A method that gathers more than its initial state while it learns takes more.
    """
    config = job.config
    made = methods.get(job.method)(
        config.method, method_spec(config), job.num_clusters, config.seed
    )
    state: int = sum(
        value.nbytes for value in made.state_dict().values() if hasattr(value, "nbytes")
    )
    # Adam keeps two moments of what learns.
    moments: int = sum(2 * value.nbytes for value in made.parameters() if value.requires_grad)
    return _CHECKPOINTS * (state + moments) + PICTURE_BYTES * config.data.eval_size**2


def kept_bytes(ended: Path) -> int:
    """Sums up what lies in a run's folder."""
    return sum(path.stat().st_size for path in ended.rglob("*") if path.is_file())


def lacking_room(folder: Path, each: int, to_come: int) -> str:
    """Says that a disk has no room for the runs to come; empty where it has.

    Args:
        folder: Of the sweep.
        each: Bytes of a run.
        to_come: How many there are.
    """
    free = shutil.disk_usage(folder).free
    if each * to_come <= free:
        return ""
    return (
        f"{folder}: {size(free)} are free, and the {to_come} runs to come take about "
        f"{size(each * to_come)} (checkpoints, pictures): make room. If the disk is full, "
        "--resume goes on once there is."
    )
