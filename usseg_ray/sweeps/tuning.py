"""Ray Tune under a sweep: its queue of trials, and which run side by side until time is up."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from ray import tune
from ray.tune.error import TuneError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from usseg_ray.core.errors import UserError
from usseg_ray.scoring.objective import MIOU
from usseg_ray.sweeps.k.sharing import sharing
from usseg_ray.sweeps.method_plan import MethodPlan
from usseg_ray.sweeps.monitor import Monitor, name_of
from usseg_ray.sweeps.plan import Draws, Plan
from usseg_ray.sweeps.space import Distribution, Sample
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.trainer import BASELINES, run_trial, trial_resources
from usseg_ray.trials.trial import ENDED, Trial, number_and_seed

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

TUNE_STATE = ".tune"

# Tune copies its own state while it writes it, which may fail and is then told as an error with a
# traceback. Nothing reads that copy. Of a trial that fails the screen says the cause in a line;
# Tune's traceback of it is in `error.txt` among the artifacts of Ray's session.
for _chatty in ("execution.experiment_state", "execution.tune_controller", "tune"):
    logging.getLogger(f"ray.tune.{_chatty}").setLevel(logging.CRITICAL)


@contextmanager
def nothing_handed_on() -> Iterator[None]:
    """Has Tune give its trials no environment of their own, where Ray was started here.

    They have this process's anyway, and Ray's processes that stand ready are taken for them. Keys
    that Tune hands on it would write into Ray's logs.
    """
    names, values = class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS
    before = set(names), dict(values)
    names.clear()
    values.clear()
    try:
        yield
    finally:
        names.update(before[0])
        values.update(before[1])


def tuner_for(
    plan: Plan,
    monitor: Monitor,
    queue: "TrialQueue",
    concurrent: int,
    *,
    scheduler: TrialScheduler | None = None,
    budget_s: float | None = None,
) -> tune.Tuner:
    """Makes what runs trials until all have ended or the time is up.

    Args:
        plan: The sweep's plan, on its cluster.
        monitor: Follows them.
        queue: The trials to run.
        concurrent: Trials at a time.
        scheduler: Stops weak ones.
        budget_s: Seconds after which those that still run are stopped.
    """
    resources, device = plan.config.resources, plan.parts[0].placement.device
    trainable = tune.with_parameters(run_trial, folder=monitor.storage.place)
    return tune.Tuner(
        tune.with_resources(trainable, trial_resources(resources, device)),
        tune_config=tune.TuneConfig(
            metric=plan.objective,
            mode="max",
            num_samples=-1,  # the queue says when there are no more
            search_alg=queue,
            scheduler=scheduler,
            max_concurrent_trials=concurrent,
            time_budget_s=budget_s,
            # A trial that a scheduler stops while it waits for its workers goes on waiting: its
            # process cannot be given to the next one.
            reuse_actors=not resources.num_workers or scheduler is None,
            trial_name_creator=name_of,
        ),
        run_config=tune.RunConfig(
            name=TUNE_STATE,
            storage_path=str(monitor.folder),
            # Of its own making; the monitor forgives those of its node.
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[monitor, JsonLoggerCallback()],
            verbose=0,
        ),
    )


@contextmanager
def unwrapped() -> Iterator[None]:
    """Brings back as what it is what ended Tune in the sweep's own code, such as a full disk.

    Tune raises the text of its traceback in place of it.

    Raises:
        UserError: The sweep's own.
        OSError: The same.
    """
    try:
        yield
    except TuneError as error:
        cause = error.__context__
        if isinstance(cause, (UserError, OSError)):
            raise cause from None
        raise


def scheduler_for(plan: Plan) -> TrialScheduler | None:
    """Makes the scheduler that was asked for."""
    if plan.request.scheduler == "none":
        return None
    return EqualEpochs(plan.max_epochs)


class EqualEpochs(ASHAScheduler):  # type: ignore[misc]
    """ASHA that compares trials at equal epochs, also those that go on from an earlier life.

    Ray's own records a score at the highest rung below its epoch that has none of its trial: of one
    that goes on at epoch 12, at rungs 4 and 1, among scores of those epochs. Here a trial is looked
    at where it passes a rung, and at the rungs that it passed in an earlier life not at all.
    Finalists are trained to their end.

    Args:
        max_epochs: Epochs of the longest trial.
    """

    def __init__(self, max_epochs: int) -> None:
        super().__init__(time_attr="epoch", max_t=max_epochs, grace_period=1)
        (bracket,) = self._brackets
        self._milestones = [milestone for milestone, _ in bracket._rungs]
        self._passed: dict[str, float] = {}

    def on_trial_result(
        self, tune_controller: "TuneController", trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Stops a trial that is weak at the rung which it passes."""
        name = name_of(trial)
        if name == BASELINES or number_and_seed(name)[1] is not None:
            return str(TrialScheduler.CONTINUE)
        epoch = result["epoch"]
        # Each epoch is reported: the first report tells how far an earlier life came.
        passed = self._passed.setdefault(trial.trial_id, epoch - 1)
        if self._metric not in result:
            return str(TrialScheduler.CONTINUE)
        self._passed[trial.trial_id] = max(passed, epoch)
        if epoch < self._max_t and not any(passed < one <= epoch for one in self._milestones):
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(
        self,
        tune_controller: "TuneController",
        trial: TuneTrial,
        result: dict[str, Any],  # noqa: ARG002
    ) -> None:
        """Forgets a trial, whose last report it has looked at."""
        self.on_trial_remove(tune_controller, trial)


@dataclass(frozen=True)
class Beside:
    """What the processes of a queue's trials do apart from these.

    Attributes:
        baselines: What the computation of baselines needs, which comes first; `None` for none.
        finals: Name of a trial -> what its process scores on the test split when it has ended.
        more: Plans further trials, where none of those that are left can begin; says `None` where
            no more will come.
    """

    baselines: Job | None = None
    finals: Mapping[str, Sequence[FinalScoring]] = field(default_factory=dict)
    more: Callable[[], Draws | None] = lambda: None


class TrialQueue(Searcher):  # type: ignore[misc]
    """Hands Ray Tune trials one after the other, as planned or drawn by their method's model.

    Args:
        draws: The trials to come.
        job: Makes a job of method, sample and seed; see `Plan.job`.
        models: Method -> what draws for it.
        objective: The metric to draw for.
        beside: What their processes do apart from them.
    """

    def __init__(
        self,
        draws: Draws,
        job: Callable[[str, Sample, int | None], Job],
        models: Mapping[str, Searcher] | None = None,
        objective: str = MIOU,
        beside: Beside | None = None,
    ) -> None:
        super().__init__(metric=objective, mode="max")
        self._beside = beside or Beside()
        self._baselines = self._beside.baselines
        self._job = job
        self._models = models or {}
        self._queue = dict(draws)
        self._given: dict[str, tuple[str, Sample | None]] = {}
        self._training: dict[str, str] = {}

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
        """Says of the next trial its name, what it drew, and the job that follows."""
        if self._baselines is not None:
            job, self._baselines = self._baselines, None
            return {"trial": BASELINES, "job": job}
        name = self._next()
        if name is None and (more := self._beside.more()) is not None:
            self._queue |= more
            name = self._next()
        elif not self._queue:
            finished: str = Searcher.FINISHED
            return finished
        if name is None:
            return None
        method, known = self._queue[name]
        sample = self._models[method].suggest(trial_id) if known is None else known
        if sample is None:
            return None
        del self._queue[name]
        self._given[trial_id] = method, known
        job = self._job(method, sample, number_and_seed(name)[1])
        self._training[trial_id] = job.shared
        finals = self._beside.finals.get(name, ())
        return {"trial": name, "sample": sample, "job": job, "finals": finals}

    def _next(self) -> str | None:
        return next((name for name in self._queue if not self._waits(name)), None)

    def _waits(self, name: str) -> bool:
        """Says whether a trial's training is what another one does at this moment."""
        method, known = self._queue[name]
        busy = {shared for shared in self._training.values() if shared}
        if not busy or known is None:
            return False
        return self._job(method, known, number_and_seed(name)[1]).shared in busy

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells a trial's model how it went."""
        if trial_id not in self._given:  # baselines, which nobody drew
            return
        method, known = self._given.pop(trial_id)
        del self._training[trial_id]
        score = (result or {}).get(self.metric)
        if method not in self._models:
            return
        if known is None:
            self._models[method].on_trial_complete(trial_id, result, error)
        elif known and score is not None:
            self._models[method].add_evaluated_point(known, score)

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing: a resumed sweep reads the trials' own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""


def queue_for(
    plan: Plan, draws: Draws, before: Mapping[str, Trial], beside: Beside | None = None
) -> TrialQueue:
    """Queues trials of a sweep, with the models that draw for those which are not planned.

    Args:
        plan: The sweep's plan.
        draws: The trials to run.
        before: Records of earlier lives of the sweep by name; ended trials are told to the models,
            broken-off ones are drawn again as they were.
        beside: What their processes do apart from them.
    """
    ended = [t for t in before.values() if t.status in ENDED and t.score is not None]
    known, seed = [*ended, *plan.known], plan.config.seed + len(ended)
    models = {
        part.method: _model(part, known, seed, plan.objective)
        for part in plan.parts
        if not part.samples
    }
    again = {
        name: (method, before[name].sample if name in before else sample)
        for name, (method, sample) in draws.items()
    }
    return TrialQueue(again, sharing(plan), models, plan.objective, beside)


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
