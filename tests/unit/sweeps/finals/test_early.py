from pathlib import Path
from typing import Any, cast

import pytest

from tests.finalists import Planned, trial
from usseg_ray.sweeps.finals.early import EarlyFinalists
from usseg_ray.sweeps.plan import Plan
from usseg_ray.trials.job import Job
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import Trial, trial_name


def early(folder: Path, trials: int = 4, **changed: Any) -> EarlyFinalists:
    draws: dict[str, Any] = {trial_name(index): ("acseg", {}) for index in range(trials)}
    return EarlyFinalists(cast(Plan, Planned(draws, **changed)), Storage(folder))


def test_finalists_are_trained_as_soon_as_they_are_known(tmp_path: Path) -> None:
    sweep, running = early(tmp_path), trial(3, "acseg", 50, "RUNNING")
    ended = [trial(0, "acseg", 30), trial(1, "acseg", 40), trial(2, "acseg", 35)]
    assert sweep.more([*ended[:2], running]) == {}
    found = sweep.more([*ended, running])
    assert found is not None
    assert list(found) == ["trial_001-seed6"]
    assert sweep.chosen == [ended[1]]
    # Its process scores both of its runs; nothing is planned twice.
    assert [one.trial for one in sweep.finals["trial_001-seed6"]] == [
        "trial_001",
        "finalists/trial_001-seed6",
    ]
    again = trial(1, "acseg", 40, "RUNNING")
    again.seed = 6
    assert sweep.more([*ended, running, again]) == {}
    last = sweep.more([*ended, trial(3, "acseg", 10), again])
    assert last is not None
    assert list(last) == ["trial_002-seed6"]
    assert sweep.more([*ended, trial(3, "acseg", 10), again]) is None
    assert list(sweep.draws) == ["trial_001-seed6", "trial_002-seed6"]


def test_a_sweep_whose_trials_all_failed_comes_to_its_end(tmp_path: Path) -> None:
    assert early(tmp_path, 1).more([trial(0, "acseg", None, "FAILED")]) is None


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ({"trial_000": trial(0, "acseg", 1, "RUNNING")}, {}),
        ({}, {"has_test": False}),
        ({}, {"budget_s": 60.0}),
    ],
)
def test_some_sweeps_wait_until_their_trials_have_ended(
    tmp_path: Path, before: dict[str, Trial], changed: dict[str, Any]
) -> None:
    job = cast(Job, "baselines")
    beside = early(tmp_path, **changed).beside(before, job)
    assert (beside.baselines, beside.more()) == (job, None)


def test_a_new_sweep_goes_on_with_finalists(tmp_path: Path) -> None:
    trials = dict[str, Trial]()
    sweep = early(tmp_path, 1)
    beside = sweep.beside(trials, None)
    assert beside.more() == {}
    trials["trial_000"] = trial(0, "acseg", 1)
    assert list(beside.more() or {}) == ["trial_000-seed6"]
    assert list(beside.finals) == ["trial_000-seed6"]
