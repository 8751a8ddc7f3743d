"""Charts on a real MLflow store: the tables behind them are the store's."""

import re
from collections import defaultdict
from statistics import fmean, stdev

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.reported import (
    MIOU,
    Page,
)
from usseg_ray.report.curves import MOST_CURVES, drawn_of, in_parts
from usseg_ray.report.read import RunRecord
from usseg_ray.report.svg import Axis


def test_the_k_curve_averages_trials_and_further_seeds(
    page: Page, runs: dict[str, Run], trials: dict[str, Run]
) -> None:
    expected: dict[tuple[str, str], list[float]] = defaultdict(list)
    further = [run for name, run in runs.items() if re.search(r"-seed[12]$", name)]
    for run in (*trials.values(), *further):
        key = (run.data.tags["usseg.method"], run.data.params["num_clusters"])
        expected[key].append(run.data.metrics["unsup_miou"])
    table = page.table(f"{MIOU} over K")
    found = {
        (row[0], row[1]): numbers for row, numbers in zip(table.rows, table.numbers, strict=True)
    }
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        spread = [fmean(values), *([stdev(values)] if len(values) > 1 else [])]
        assert found[key][2] == pytest.approx(spread)
        assert found[key][3] == [float(len(values))]
    assert page.table("stability over K").rows


def test_learning_curves_are_the_histories(page: Page, uri: str, trials: dict[str, Run]) -> None:
    table = page.table(f"{MIOU}, over epochs")
    expected = {
        (name, float(metric.step), metric.value)
        for name, run in trials.items()
        for metric in MlflowClient(uri).get_metric_history(run.info.run_id, "unsup_miou")
    }
    found = {
        (row[0], numbers[2][0], numbers[3][0])
        for row, numbers in zip(table.rows, table.numbers, strict=True)
    }
    assert found == expected
    assert {t.caption.split()[2] for t in page.tables if t.caption.startswith("loss of")} == {
        "picie",
        "stego",
    }


def test_of_many_trials_some_have_a_curve() -> None:
    methods = ["a"] * 3 + ["b"] * 250 + ["a"]
    trials = [
        RunRecord(str(i), f"trial_{i:03d}", "FINISHED", 0, 1.0, {}, {"usseg.method": method}, {})
        for i, method in enumerate(methods)
    ]
    drawn = drawn_of(trials)
    names = [run.method for run in drawn]
    assert (names.count("a"), names.count("b")) == (4, MOST_CURVES)
    # The best of each is one of them, and the order stays.
    assert [run.id for run in drawn[:6]] == ["0", "1", "2", "3", "5", "8"]


def test_settings_are_those_that_trials_vary(page: Page, trials: dict[str, Run]) -> None:
    table = page.table("Trials of picie by what they varied")
    assert table.heads == ["trial", "num_clusters", "method.gamma", MIOU]
    for name in ("trial_000", "trial_002", "trial_004"):
        gamma = float(trials[name].data.params["method.gamma"])
        assert table.numbers_of(name, "method.gamma") == [gamma]


@pytest.mark.parametrize(("settings", "drawings"), [(1, []), (3, []), (4, [3, 1]), (9, [3, 3, 3])])
def test_many_axes_are_several_drawings_on_a_phone(settings: int, drawings: list[int]) -> None:
    varied = [Axis(f"setting {number}", (1.0, 2.0)) for number in range(settings)]
    score = Axis("mIoU", (40.0, 50.0))
    parts = in_parts([*varied, score])
    assert [len(part) - 1 for part in parts] == drawings
    assert all(part[-1] is score for part in parts)
    assert [axis for part in parts for axis in part[:-1]] == (varied if drawings else [])
