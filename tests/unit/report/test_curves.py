"""Charts on a real MLflow store: the tables behind them are the store's."""

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.ledgers import lay_store, opened
from tests.reported import (
    MIOU,
    Page,
)
from usseg_ray.report.content import Chart
from usseg_ray.report.curves import (
    MOST_CURVES,
    MOST_POINTS,
    in_parts,
    learning_curves,
    parallel_coordinates,
    some_evenly,
)
from usseg_ray.report.read import RunRecord, Store
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
    drawn = some_evenly(trials, 100)
    names = [run.method for run in drawn]
    assert (names.count("a"), names.count("b")) == (4, 100)
    # The best of each is one of them, and the order stays.
    assert [run.id for run in drawn[:6]] == ["0", "1", "2", "3", "5", "8"]


def test_of_many_trials_and_epochs_a_screenful_is_drawn_and_the_caption_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_store(tmp_path / "mlflow.db")
    trials, epochs = MOST_CURVES + 10, MOST_POINTS + 70
    with opened() as ledger:
        for number in range(trials):
            name = f"trial_{number:03d}"
            ledger.open_trial(name, {"method.gamma": number}, {"usseg.method": "stego"})
            last = epochs if number == 0 else 2
            for epoch in range(1, last + 1):
                ledger.log(name, {"unsup_miou": 90.0 - number, "loss": 1 / epoch}, epoch)
            ledger.close_trial(name, "FINISHED")
    found = Store(None, "usseg")
    sweeps = found.sweeps([])
    charts = [block for block in learning_curves(found, sweeps).blocks if isinstance(block, Chart)]
    said = f"{MOST_CURVES} of {trials} trials, {MOST_POINTS} of {epochs} epochs"
    for chart in charts:
        assert said in chart.numbers.caption
        assert said in chart.svg
        rows = [row.cells for row in chart.numbers.rows]
        steps = [cells["epoch"] for cells in rows if cells["trial"] == "trial_000"]
        assert (len(steps), steps[0], steps[-1]) == (MOST_POINTS, 1.0, float(epochs))
        assert len({cells["trial"] for cells in rows}) == MOST_CURVES
    assert len(charts) == 2
    # All trials stand in the table of their settings, however few of them are drawn.
    (axes,) = parallel_coordinates(sweeps).blocks
    assert isinstance(axes, Chart)
    assert len(axes.numbers.rows) == trials


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
