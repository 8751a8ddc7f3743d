"""In which form a plan's trials run: how many at a time, and in how many processes each."""

from pathlib import Path
from traceback import format_exception_only

import ray
from rich.console import Console

from usseg_ray.cluster.capacity import max_concurrent_trials
from usseg_ray.cluster.ray_stream import users_mistakes
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials.forecast import TrialForm, choose, longest_seconds
from usseg_ray.trials.job import Job
from usseg_ray.trials.tasks import as_task
from usseg_ray.trials.trial import load_trials


def concurrent_trials(plan: Plan, device: str) -> int:
    """Says how many trials run at a time: as many as fit, unless there are or may be fewer.

    Args:
        plan: The sweep's plan.
        device: `cpu` or `cuda`.
    """
    fits = max_concurrent_trials(plan.config.resources, device)
    return min(fits, plan.request.max_concurrent or fits, plan.num_trials)


def takes_all(plan: Plan, concurrent: int) -> bool:
    """Tells whether trials that train in their own processes leave no room for another one.

    Args:
        plan: The sweep's plan, on its cluster.
        concurrent: Trials at a time.
    """
    resources, device = plan.config.resources, plan.parts[0].placement.device
    own = not resources.num_workers
    return own and concurrent >= max_concurrent_trials(resources, device)


def choose_form(plan: Plan, folder: Path, console: Console) -> Plan:
    """Chooses the form of the trials where the user left it open; for the life of the sweep.

    Args:
        plan: The sweep's plan, on its cluster.
        folder: The sweep's folder.
        console: Where to say what was chosen, and why.

    Returns:
        The plan with `resources.num_workers` chosen.
    """
    return plan.in_processes(_num_workers(plan, folder, console))


def _num_workers(plan: Plan, folder: Path, console: Console) -> int | str:
    asked = plan.config.resources.num_workers
    if asked != "auto":
        return asked
    if earlier := load_trials(folder):
        return earlier[0].num_workers
    first = plan.first_jobs()
    try:
        choice = choose(_longest_seconds(first))
    except Exception as error:  # noqa: BLE001 (what a trial may raise, it says itself)
        (*_, cause) = "".join(format_exception_only(error)).strip().splitlines()
        choice = TrialForm(0, f"Trials run in their own process: trying one out failed ({cause})")
    console.print(choice.reason, markup=False, highlight=False)
    return choice.num_workers


def _longest_seconds(jobs: list[Job]) -> float:
    """Tries out the longest trial: here, or where the GPUs are, which the driver may not have."""
    if jobs[0].placement.device == "cpu":
        return longest_seconds(jobs)
    with users_mistakes():
        found: float = ray.get(as_task(longest_seconds, jobs[0]).remote(jobs))
    return found
