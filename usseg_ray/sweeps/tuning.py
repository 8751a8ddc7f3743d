"""Ray Tune under a sweep: which trials run, side by side, until all are done or time is up."""

import logging
from dataclasses import dataclass

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from usseg_ray.sweeps.monitor import Monitor
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trainer import run_trial, trial_resources
from usseg_ray.trials import trial_name

TUNE_STATE = ".tune"
# Tune copies its own state while it writes it, which may fail and is then told as an error with a
# traceback. Nothing reads that copy.
logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Slots:
    """How a sweep's trials share the cluster.

    Attributes:
        concurrent: Trials at a time.
        num_workers: As `resources.num_workers`, but chosen.
        device: `cpu` or `cuda`.
    """

    concurrent: int
    num_workers: int | str
    device: str


def tune_trials(
    plan: Plan,
    monitor: Monitor,
    names: list[str],
    slots: Slots,
    *,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    budget_s: float | None = None,
) -> None:
    """Runs trials until all have ended or the time is up.

    Args:
        plan: The sweep's plan.
        monitor: Follows them.
        names: Of the trials to run.
        slots: How they share the cluster.
        searcher: Draws them; without one, each is as the monitor's jobs planned it.
        scheduler: Stops weak ones.
        budget_s: Seconds after which those that still run are stopped.
    """
    resources = plan.config.resources.model_copy(update={"num_workers": slots.num_workers})
    trainable = tune.with_parameters(run_trial, jobs=monitor.jobs, folder=monitor.storage.place)
    tune.Tuner(
        tune.with_resources(trainable, trial_resources(resources, slots.device)),
        param_space={"trial": tune.grid_search(names)} if searcher is None else None,
        tune_config=tune.TuneConfig(
            metric=plan.objective,
            mode="max",
            num_samples=1 if searcher is None else len(names),
            search_alg=searcher,
            scheduler=scheduler,
            max_concurrent_trials=slots.concurrent,
            time_budget_s=budget_s,
            # A trial that a scheduler stops while it waits for its workers goes on waiting: its
            # process cannot be given to the next one.
            reuse_actors=not slots.num_workers or scheduler is None,
            trial_name_creator=monitor.names,
        ),
        run_config=tune.RunConfig(
            name=TUNE_STATE,
            storage_path=str(monitor.folder),
            # Of its own making; the monitor forgives those of its node.
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[monitor, JsonLoggerCallback()],
            verbose=0,
        ),
    ).fit()


def scheduler_for(plan: Plan) -> TrialScheduler | None:
    """Makes the scheduler that was asked for."""
    if plan.request.scheduler == "none":
        return None
    return ASHAScheduler(time_attr="epoch", max_t=plan.max_epochs, grace_period=1)


def names_of(plan: Plan) -> list[str]:
    """Names the trials of a plan, in order."""
    return [trial_name(index) for index in range(plan.num_trials)]
