from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.own.results import SweepResult, run_own_sweep, shown
from usseg_ray.trials.trial import Trial


def trial(index: int, score: float | None) -> Trial:
    metrics = {} if score is None else {"unsup_miou": score}
    return Trial(index, "kmeans", {}, {"num_clusters": 4}, 1, "FINISHED", metrics)


def test_the_best_is_the_first_and_a_notebook_shows_all() -> None:
    trials = (trial(2, 41.25), trial(0, None))
    found = SweepResult(Path("runs/<b>"), trials)
    assert found.best is trials[0]
    assert [shown(one) for one in trials] == ["41.250", ""]
    page = found._repr_html_()
    assert "<div>runs/&lt;b&gt;</div>" in page
    assert "<tr><td>trial_002</td><td>kmeans</td><td>4</td><td>unsup_miou</td>" in page


def test_a_sweep_without_an_end_says_so() -> None:
    with pytest.raises(UserError, match="runs/none: no trial has ended"):
        _ = SweepResult(Path("runs/none"), ()).best


def test_an_option_that_is_none_is_a_line() -> None:
    with pytest.raises(UserError, match=r"sweep: .*num_sample\b"):
        run_own_sweep("synthetic", ("kmeans",), None, "textons", {}, {"num_sample": 2})
