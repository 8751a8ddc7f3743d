import errno
import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import tune
from ray.tune.error import TuneError
from ray.tune.execution import class_cache, tune_controller
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tests import tiny
from usseg_ray.sweeps.plan import Draws, Plan, make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.sweeps.space import Sample
from usseg_ray.sweeps.tuning import (
    Beside,
    EqualEpochs,
    TrialQueue,
    nothing_handed_on,
    queue_for,
    unwrapped,
)
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.trainer import BASELINES
from usseg_ray.trials.trial import Trial, trial_name

BOTH = ["acseg", "kmeans"]
SMALL = {"backbone.name": "textons", "method.num_blocks": 1, "method.num_heads": 3}


def test_tune_tells_of_a_failed_trial_in_no_words_of_its_own() -> None:
    # The screen says its cause in a line.
    for told_by in (tune_controller, tune):
        assert not told_by.logger.isEnabledFor(logging.ERROR)


def test_a_full_disk_under_tune_keeps_its_number() -> None:
    def fail() -> None:
        try:
            Path("/dev/full").write_text("a record")
        except OSError:
            raise TuneError(traceback.format_exc())  # noqa: B904 (as Tune does)

    with pytest.raises(OSError, match="No space left") as found, unwrapped():
        fail()
    assert found.value.errno == errno.ENOSPC
    with pytest.raises(TuneError), unwrapped():
        raise TuneError("another")


class Counting(Searcher):  # type: ignore[misc]
    """Draws 1, 2, 3, ... and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(metric="unsup_miou", mode="max")
        self.drawn = 0
        self.told: list[Any] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | None:  # noqa: ARG002
        self.drawn += 1
        return {"x": self.drawn}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.told.append((trial_id, result, error))

    def add_evaluated_point(self, parameters: Any, value: Any, **_: Any) -> None:
        self.told.append((parameters, value))


def job(method: str, sample: Sample, seed: int | None = None) -> Job:
    """Makes a job whose K, method and seed tell what it was made of."""
    settings = {"num_clusters": 10 + sample.get("x", 0), "seed": seed or 0}
    return Job(method, tiny.config(**settings), "/data")


def named(draws: Sequence[tuple[str, Sample | None]]) -> Draws:
    return {trial_name(index): draw for index, draw in enumerate(draws)}


def suggested(queue: TrialQueue, trial_id: str) -> tuple[str, Sample]:
    found = queue.suggest(trial_id)
    assert isinstance(found, dict)
    return found["job"].method, found["sample"]


def test_each_method_has_a_model_of_its_own() -> None:
    models = {"a": Counting(), "b": Counting()}
    draws: list[Any] = [("a", {}), ("b", {}), ("a", None), ("b", None), ("a", None)]
    searcher = TrialQueue(named(draws), job, models)
    drawn = [searcher.suggest(str(i)) for i in range(5)]
    assert drawn == [
        {"trial": "trial_000", "sample": {}, "job": job("a", {}), "finals": ()},
        {"trial": "trial_001", "sample": {}, "job": job("b", {}), "finals": ()},
        {"trial": "trial_002", "sample": {"x": 1}, "job": job("a", {"x": 1}), "finals": ()},
        {"trial": "trial_003", "sample": {"x": 1}, "job": job("b", {"x": 1}), "finals": ()},
        {"trial": "trial_004", "sample": {"x": 2}, "job": job("a", {"x": 2}), "finals": ()},
    ]
    assert searcher.suggest("5") == Searcher.FINISHED
    searcher.on_trial_complete("2", {"unsup_miou": 30.0})
    searcher.on_trial_complete("3", error=True)
    # The defaults are no point of the space.
    searcher.on_trial_complete("0", {"unsup_miou": 20.0})
    assert models["a"].told == [("2", {"unsup_miou": 30.0}, False)]
    assert models["b"].told == [("3", None, True)]


def test_a_broken_off_trial_is_drawn_as_it_was_and_told() -> None:
    model = Counting()
    searcher = TrialQueue(named([("a", {"x": 7})]), job, {"a": model})
    assert suggested(searcher, "0") == ("a", {"x": 7})
    searcher.on_trial_complete("0", {"unsup_miou": 30.0})
    assert model.told == [({"x": 7}, 30.0)]
    assert model.drawn == 0


def plan(**changes: Any) -> Plan:
    options: dict[str, Any] = {
        "methods": with_spaces(BOTH, None),
        "data": "synthetic",
        "assigned": SMALL,
        "num_samples": 3,
        "search": "optuna",
        "scheduler": "none",
    }
    return make_plan(Request(**(options | changes)), make_data=False)


def trial(index: int, method: str, gamma: float, score: float | None, status: Any) -> Trial:
    sample = {"method.gamma": gamma, "method.num_prototypes": 5, "clusters_per_class": 1.0}
    metrics = {} if score is None else {"unsup_miou": score}
    return Trial(index, method, sample, dict(sample), 3, status, metrics)


def test_a_resumed_sweep_repeats_what_was_broken_off_and_draws_the_rest() -> None:
    before = {
        "trial_002": trial(2, "acseg", 1.5, 30.0, "FINISHED"),
        "trial_004": trial(4, "acseg", 0.75, None, "RUNNING"),
    }
    made = plan()
    left = {name: made.draws[name] for name in ("trial_003", "trial_004", "trial_005")}
    queue = queue_for(made, left, before)
    drawn = [suggested(queue, str(i)) for i in range(3)]
    assert [method for method, _ in drawn] == ["kmeans", "acseg", "kmeans"]
    assert drawn[1][1]["method.gamma"] == 0.75
    assert drawn[0][1]


def stopped(
    scheduler: EqualEpochs, name: str, scores: dict[int, float], trial: str = "trial_000"
) -> list[int]:
    """Reports epochs of a trial; says at which the scheduler would have stopped it."""
    at: Any = SimpleNamespace(trial_id=name, config={"trial": trial})
    controller: Any = None
    scheduler.on_trial_add(controller, at)
    results = {epoch: {"epoch": float(epoch), "unsup_miou": scores[epoch]} for epoch in scores}
    found = [
        epoch
        for epoch, result in results.items()
        if scheduler.on_trial_result(controller, at, result) == TrialScheduler.STOP
    ]
    scheduler.on_trial_complete(controller, at, results[max(results)])
    return found


def halving() -> EqualEpochs:
    scheduler = EqualEpochs(20)
    scheduler.set_search_properties("unsup_miou", "max")
    return scheduler


def test_weak_trials_are_stopped_where_they_pass_a_rung() -> None:
    scheduler = halving()
    assert stopped(scheduler, "first", dict.fromkeys(range(1, 21), 50.0)) == [20]
    assert stopped(scheduler, "weak", dict.fromkeys(range(1, 19), 49.0)) == [1, 4, 16]


def test_what_runs_among_the_trials_is_neither_stopped_nor_compared_with() -> None:
    scheduler = halving()
    good = dict.fromkeys(range(1, 21), 60.0)
    for beside in ("trial_000-seed1", BASELINES):
        assert stopped(scheduler, beside, good, beside) == []
    assert stopped(scheduler, "first", dict.fromkeys(range(1, 18), 50.0)) == []
    assert stopped(scheduler, "weak finalist", dict.fromkeys(good, 1.0), "trial_001-seed1") == []


def test_a_trial_that_goes_on_is_compared_with_none_of_fewer_epochs() -> None:
    scheduler = halving()
    assert stopped(scheduler, "gone on", dict.fromkeys(range(13, 19), 60.0)) == []
    assert stopped(scheduler, "ended below a rung", dict.fromkeys(range(6, 8), 60.0)) == []
    # At epoch 16 there is a score of that epoch.
    assert stopped(scheduler, "new", dict.fromkeys(range(1, 18), 50.0)) == [16]


def test_epochs_without_a_score_pass_no_rung() -> None:
    scheduler = halving()
    controller: Any = None
    at: Any = SimpleNamespace(trial_id="every third", config={"trial": "trial_000"})
    scheduler.on_trial_add(controller, at)
    for epoch, score in ((1, {}), (2, {}), (3, {"unsup_miou": 60.0})):
        told = scheduler.on_trial_result(controller, at, {"epoch": float(epoch), **score})
        assert told == TrialScheduler.CONTINUE
    # The first score beyond a rung counts at it.
    assert stopped(scheduler, "weak", dict.fromkeys(range(1, 4), 50.0)) == [1]


def test_what_is_known_is_told_to_its_model_if_it_lies_in_the_space() -> None:
    ended = {trial_name(i): trial(i, "acseg", 1.0, 20.0, "FINISHED") for i in (0, 2)}
    ended["trial_004"] = trial(4, "acseg", 99.0, 50.0, "FINISHED")
    made = plan()
    models = queue_for(made, {"trial_005": made.draws["trial_005"]}, ended)._models
    assert isinstance(models["acseg"], OptunaSearch)
    known = {name: len(model._ot_study.get_trials()) for name, model in models.items()}
    assert known == {"acseg": 2, "kmeans": 0}


def test_planned_trials_need_no_model() -> None:
    made = plan(search="random")
    queue = queue_for(made, made.draws, {})
    assert queue._models == {}
    drawn = [suggested(queue, str(i)) for i in range(made.num_trials)]
    assert drawn == list(made.draws.values())
    queue.on_trial_complete("3", {"unsup_miou": 30.0})
    assert queue.suggest("6") == Searcher.FINISHED


def test_a_training_that_several_trials_share_is_not_done_twice_at_once() -> None:
    def sharing(method: str, sample: Sample, seed: int | None = None) -> Job:
        return replace(job(method, sample, seed), shared=method if method != "c" else "")

    draws: list[Any] = [(name, {"x": x}) for name in "abc" for x in range(2)]
    queue = TrialQueue(named(draws), sharing)
    begun = [queue.suggest(str(number)) for number in range(5)]
    names = [found["trial"] for found in begun if isinstance(found, dict)]
    # The others of `a` and `b` wait; trials of `c` share nothing.
    assert names == ["trial_000", "trial_002", "trial_004", "trial_005"]
    assert begun[4] is None
    queue.on_trial_complete("1", error=True)
    assert suggested(queue, "5") == ("b", {"x": 1})
    assert queue.suggest("6") is None
    queue.on_trial_complete("0", {"unsup_miou": 1.0})
    assert suggested(queue, "6") == ("a", {"x": 1})
    assert queue.suggest("7") == Searcher.FINISHED


def test_a_finalists_name_has_its_seed_and_its_process_scores_it() -> None:
    scored = [FinalScoring(job("a", {}, 6), "finalists/trial_002-seed6", "there")]
    beside = Beside(finals={"trial_002-seed6": scored})
    queue = TrialQueue({"trial_002-seed6": ("a", {})}, job, beside=beside)
    found = queue.suggest("0")
    assert isinstance(found, dict)
    assert found["job"].config.seed == 6
    assert found["finals"] == scored


def test_baselines_come_first_and_further_trials_where_no_other_can_begin() -> None:
    further: list[Draws | None] = [{}, {"trial_000-seed1": ("a", {})}, {}, None]
    beside = Beside(baselines=job("a", {}), more=lambda: further.pop(0))
    queue = TrialQueue(named([("a", {"x": 1})]), job, beside=beside)
    assert queue.suggest("0") == {"trial": BASELINES, "job": job("a", {})}
    assert suggested(queue, "1") == ("a", {"x": 1})
    assert len(further) == 4
    assert queue.suggest("2") is None  # it is not known yet
    assert suggested(queue, "2") == ("a", {})
    queue.on_trial_complete("0", {"baselines": 1})
    queue.on_trial_complete("1", {"unsup_miou": 30.0})
    assert queue.suggest("3") is None
    assert queue.suggest("3") == Searcher.FINISHED


def test_keys_are_handed_to_no_trial_whose_ray_was_started_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {*class_cache.ENV_VARS_TO_PROPAGATE})
    monkeypatch.setattr(class_cache, "DEFAULT_ENV_VARS", {**class_cache.DEFAULT_ENV_VARS})
    assert "AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "HUNTER")
    with nothing_handed_on():
        made = class_cache._ActorClassCache().get(type("Trainable", (), {}))
    # An environment of its own would have Ray start a process for it beside those that are ready.
    assert not made._default_options["runtime_env"]
    # A cluster that the next sweep of this process joins has another environment.
    assert "AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE
