"""A long sweep is taken to last at least what a short one says."""

from typing import Any

import pytest

from usseg_ray.bench.sweep import SweepCase, SweepTime, _parts, extrapolated
from usseg_ray.sweeps.answer import Answer
from usseg_ray.sweeps.tables import Outcome
from usseg_ray.trials.trial import Trial

WHOLE, EXCERPT = SweepCase("stego", 16, 10, stored=True), SweepCase("stego", 2, 1, stored=False)


def timing(*epochs: tuple[float, float, float], epochs_each: int = 1) -> SweepTime:
    names = ("input_seconds", "train_seconds", "eval_seconds")
    trials = []
    for index, seconds in enumerate(epochs):
        trial = Trial(index, "stego", {}, {}, epochs_each)
        trial.metrics = dict(zip(names, seconds, strict=True))
        trials.append(trial)
    parts = {"start": 10.0, "trials": 60.0}
    return SweepTime(100.0, Outcome(trials, {}, [], 0, parts, 2, Answer("")))


def test_all_other_epochs_are_as_fast_as_the_fastest() -> None:
    short = timing((30.0, 40.0, 10.0), (20.0, 25.0, 5.0))
    # 158 epochs of 30 s, two at a time.
    assert extrapolated(short, WHOLE, EXCERPT, 2) == pytest.approx(100 + 79 * 30)
    assert extrapolated(short, WHOLE, EXCERPT, 16) == pytest.approx(100 + 158 / 16 * 30)


def test_all_of_a_sweeps_time_is_accounted_for() -> None:
    found: Any = list(_parts("stego", timing((1.0, 4.0, 3.0), (2.0, 4.0, 2.0), epochs_each=10)))
    sweep, epochs = (
        {one.what.split(": ")[1]: one for one in found if one.reference == reference}
        for reference in ("the whole sweep", "epochs of all trials")
    )
    assert {what: one.value for what, one in sweep.items()} == {
        "start": 10,
        "trials": 60,
        "the rest": 30,
    }
    assert {what: one.value for what, one in epochs.items()} == {
        "batches": 30,
        "forward, backward, step": 50,
        "clustering and scoring": 50,
    }
    for parts in (sweep, epochs):
        assert sum(one.ratio for one in parts.values()) == pytest.approx(1)
