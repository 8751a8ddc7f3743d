"""Classes, trust and cost on a real MLflow store: every number is the store's."""

from statistics import fmean, stdev

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy.stats import spearmanr

from tests.reported import (
    TEST_STAMP,
    Page,
    artifact,
    per_class,
    seeds,
)


def test_classes_are_means_over_the_seeds_of_each_finalist(
    page: Page, runs: dict[str, Run]
) -> None:
    table = page.table(f"IoU of every class: {TEST_STAMP}")
    for trial, method in (("trial_003", "stego"), ("trial_000", "picie")):
        tables = [per_class(artifact(run, "per_class.json")) for run in seeds(runs, trial)]
        for rows in zip(*tables, strict=True):
            values = [float(str(row["iou"])) for row in rows]
            expected = [fmean(values), stdev(values)]
            found = table.numbers_of(str(rows[0]["class"]), f"{method} {trial}: IoU, %")
            assert found == pytest.approx(expected)


def test_trust_is_the_rank_correlation_of_the_trials(page: Page, trials: dict[str, Run]) -> None:
    table = page.table("Choosing without labels")
    values = {name: run.data.metrics for name, run in trials.items()}
    stability = [metrics["label_free.stability"] for metrics in values.values()]
    scores = [metrics["unsup_miou"] for metrics in values.values()]
    chosen = max(values, key=lambda name: values[name]["label_free.stability"])
    row = table.rows[table.row("stability")]
    assert row[table.column("trial that it chooses")] == chosen
    regret = max(scores) - values[chosen]["unsup_miou"]
    assert table.numbers_of("stability", "points below the best trial") == [regret]
    correlation = table.numbers_of("stability", "rank correlation with mIoU (Spearman)")
    assert correlation == pytest.approx([spearmanr(stability, scores).statistic])
    # A criterion that is the same for all trials has no ranks.
    assert table.numbers_of("entropy", "rank correlation with mIoU (Spearman)") == []


SPENT = "training and scoring, s"


def test_costs_are_times_and_the_price_of_the_gpus(
    page: Page, uri: str, runs: dict[str, Run]
) -> None:
    table = page.table("Time of every run")
    names = [name for name in runs if name.startswith("trial_")]
    spent = {}
    for name in names:
        info = runs[name].info
        end = info.end_time
        if "-seed" in name:
            # Its run is closed when it is scored, which is not when it was trained.
            epochs = MlflowClient(uri).get_metric_history(info.run_id, "epoch")
            if not epochs:
                assert name.endswith("-seed0")
                assert table.numbers_of(name, SPENT) == []
                continue
            end = epochs[-1].timestamp
        spent[name] = (end - info.start_time) / 1000
        assert table.numbers_of(name, SPENT) == [spent[name]]
        assert table.numbers_of(name, "price") == pytest.approx([spent[name] / 3600 * 2 * 2.5])
    total = table.numbers_of(f"all {len(spent)} runs", SPENT)
    assert total == pytest.approx([sum(spent.values())])
    assert table.numbers_of("trial_000", "of it scoring, s") == [9.0]
    assert table.numbers_of("trial_000", "training images/s") == [102.0]
