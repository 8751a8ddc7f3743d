"""Ray Tune under a sweep: who draws its trials, and which run side by side until time is up."""

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch

from usseg_ray.scoring.objective import MIOU
from usseg_ray.sweeps.monitor import Monitor
from usseg_ray.sweeps.plan import MethodPlan, Plan
from usseg_ray.sweeps.space import Distribution
from usseg_ray.trials.trainer import run_trial, trial_resources
from usseg_ray.trials.trial import ENDED, Trial, number_and_seed, trial_name

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


class MethodSearcher(Searcher):  # type: ignore[misc]
    """Draws trials of several methods, each from its own model.

    Args:
        models: Method -> what draws for it.
        queue: Method of each trial to come and, where it is known already, what it draws.
        objective: The metric to draw for.
    """

    def __init__(
        self,
        models: Mapping[str, Searcher],
        queue: list[tuple[str, dict[str, Any] | None]],
        objective: str = MIOU,
    ) -> None:
        super().__init__(metric=objective, mode="max")
        self._models = models
        self._queue = deque(queue)
        self._given: dict[str, tuple[str, dict[str, Any] | None]] = {}

    def set_search_properties(
        self,
        metric: str | None,  # noqa: ARG002
        mode: str | None,  # noqa: ARG002
        config: dict[str, Any],  # noqa: ARG002
        **spec: object,  # noqa: ARG002
    ) -> bool:
        """Has its metric and its spaces already."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Draws the next trial: `{"method": name}` and dotted keys."""
        if not self._queue:
            finished: str = Searcher.FINISHED
            return finished
        method, known = self._queue[0]
        drawn: dict[str, Any] | None = known
        if drawn is None:
            drawn = self._models[method].suggest(trial_id)
        if drawn is None:
            return None
        self._given[trial_id] = self._queue.popleft()
        return {"method": method, **drawn}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells a trial's model how it went."""
        method, known = self._given.pop(trial_id)
        score = (result or {}).get(self.metric)
        if known is None:
            self._models[method].on_trial_complete(trial_id, result, error)
        elif known and score is not None:
            self._models[method].add_evaluated_point(known, score)

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing: a resumed sweep reads the trials' own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""


def searcher_for(
    plan: Plan, names: list[str], before: Mapping[str, Trial], concurrent: int
) -> Searcher | None:
    """Makes the searcher that was asked for.

    Args:
        plan: The sweep's plan.
        names: Of the trials to run.
        before: Records of earlier lives of the sweep by name; ended trials are told to the models,
            broken-off ones are drawn again as they were.
        concurrent: Trials at a time.

    Returns:
        The searcher; `None` where the plan says what every trial draws.
    """
    if plan.draws:
        return None
    ended = [t for t in before.values() if t.status in ENDED and t.score is not None]
    known = [*ended, *plan.known]
    seed = plan.config.seed + len(ended)
    models = {
        part.method: _model(part, known, seed, plan.objective)
        for part in plan.parts
        if not part.samples
    }
    queue = []
    for name in names:
        method, sample = plan.rounds[number_and_seed(name)[0]]
        queue.append((method, before[name].sample if name in before else sample))
    searcher = MethodSearcher(models, queue, plan.objective)
    return ConcurrencyLimiter(searcher, max_concurrent=concurrent)


def _model(part: MethodPlan, known: list[Trial], seed: int, objective: str) -> OptunaSearch:
    space = {key: _domain(d) for key, d in part.space.space.items()}
    model = OptunaSearch(space=space, metric=objective, mode="max", seed=seed)
    for trial in known:
        point = {key: trial.settings[key] for key in space if key in trial.settings}
        if trial.method == part.method and _within(point, space):
            model.add_evaluated_point(point, trial.metrics[objective])
    return model


def _within(
    point: Mapping[str, Any], space: Mapping[str, optuna.distributions.BaseDistribution]
) -> bool:
    """Says whether a point could have been drawn from a space."""
    return point.keys() == space.keys() and all(
        value in space[key].choices
        if isinstance(space[key], optuna.distributions.CategoricalDistribution)
        else isinstance(value, int | float) and space[key].low <= value <= space[key].high
        for key, value in point.items()
    )


def _domain(distribution: Distribution) -> optuna.distributions.BaseDistribution:
    if distribution.kind == "choice":
        return optuna.distributions.CategoricalDistribution(distribution.values)
    low, high = distribution.values
    if distribution.kind == "randint":
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=distribution.kind == "loguniform")
