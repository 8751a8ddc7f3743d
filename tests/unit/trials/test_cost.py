from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests import tiny
from usseg_ray.sweeps.plan import make_plan
from usseg_ray.sweeps.request import Request, with_spaces
from usseg_ray.trials.cost import Cost, estimate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = {
    "backbone.name": "textons",
    "data.train_size": 48,
    "data.eval_size": 48,
    "train.epochs": 2,
    "train.steps_per_epoch": 4,
    "train.batch_size": 8,
    "method.num_blocks": 1,
    "method.num_heads": 3,
}


def request(**changes: Any) -> Request:
    options: dict[str, Any] = {
        "methods": with_spaces(["acseg", "kmeans"], None),
        "assigned": SMALL,
        "num_samples": 2,
        "search": "random",
        "scheduler": "none",
    }
    return Request(**(options | changes))


def test_every_method_is_timed_on_its_first_trial(tmp_path: Path) -> None:
    tiny.write(tmp_path, splits={"train": 12, "val": 6, "test": 3})
    plan = make_plan(request(data=str(tmp_path), finalists=3, seeds=2)).on(DEVICE, "", {})
    found = estimate(plan.first_jobs(), {"acseg": 2, "kmeans": 2}, plan.final_runs)
    assert (found.device, found.trials) == (DEVICE, {"acseg": 2, "kmeans": 2})
    assert 0 < found.seconds["acseg"] < 60
    assert found.retrained == 3


def test_finalists_are_trained_where_they_can_be_scored(tmp_path: Path) -> None:
    tiny.write(tmp_path, splits={"train": 12, "val": 6, "test": 3})
    made = make_plan(request(data=str(tmp_path), finalists=7, seeds=3))
    assert (made.has_test, made.final_runs) == (True, 4 * 2)
    without = SMALL | {"data.test_split": "none"}
    made = make_plan(request(data=str(tmp_path), finalists=7, seeds=3, assigned=without))
    assert (made.has_test, made.final_runs) == (False, 0)


COST = Cost({"acseg": 10.0, "hp": 30.0}, {"acseg": 6, "hp": 4}, 6, "cuda")


def test_the_sum_counts_finalists_as_the_longest_method() -> None:
    assert COST.total == 6 * 10 + 4 * 30 + 6 * 30
    (line,) = COST.lines(None)
    assert "GPU" in line
    assert "one trial after the other about 6 min (acseg 6 x 10 s, hp 4 x 30 s" in line
    assert "finalists 6 runs; features anew in each trial)" in line


def test_the_sum_counts_features_once_and_is_shared_by_trials_at_a_time() -> None:
    found = replace(COST, features=40.0, at_once=4)
    assert found.total == COST.total + 40
    (line,) = found.lines(None)
    assert "about 7 min, 4 at a time 100 s" in line
    assert line.endswith("features once 40 s).")


def test_trials_that_take_over_a_training_are_scored_alone() -> None:
    found = replace(COST, trials={"acseg": 2, "hp": 4}, untrained={"acseg": (4, 3.0)})
    assert found.total == 2 * 10 + 4 * 3 + 4 * 30 + 6 * 30
    (line,) = found.lines(None)
    assert "(acseg 2 x 10 s, hp 4 x 30 s, acseg 4 x 3 s that train nothing, finalists" in line


def test_shared_trainings_are_timed_apart(tmp_path: Path) -> None:
    tiny.write(tmp_path, splits={"train": 12, "val": 6, "test": 3})
    plan = make_plan(request(data=str(tmp_path))).on(DEVICE, "", {})
    found = estimate(
        plan.first_jobs(), {"acseg": 5, "kmeans": 2}, 0, trained={"acseg": 2, "kmeans": 2}
    )
    assert found.trials == {"acseg": 2, "kmeans": 2}
    count, seconds = found.untrained["acseg"]
    assert count == 3
    assert 0 < seconds < found.seconds["acseg"]
    assert "kmeans" not in found.untrained


def test_money_needs_a_gpu() -> None:
    assert COST.lines(10.0)[1] == "Money: about 1.00."
    assert "no GPU" in Cost({"acseg": 1.0}, {"acseg": 1}, 0, "cpu").lines(10.0)[1]
