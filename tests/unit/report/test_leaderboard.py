"""Leaderboards on a real MLflow store: every number is the store's, and ranks compare."""

from statistics import fmean, stdev

import pytest
from mlflow.entities import Run

from tests.reported import (
    FINALS_TABLE,
    HOSTILE,
    MIOU,
    OTHER_STAMP,
    TRIALS,
    TRIALS_TABLE,
    Page,
    seeds,
)
from usseg_ray.report.page import as_html
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose


def test_the_trials_table_is_the_stores(page: Page, trials: dict[str, Run]) -> None:
    table = page.table(TRIALS_TABLE)
    heads = {
        "unsup_miou": MIOU,
        "unsup_acc": "accuracy, %",
        "boundary_f": "boundary F, %",
    }
    for name, run in trials.items():
        for metric, head in heads.items():
            assert table.numbers_of(name, head) == [run.data.metrics[metric]]
        assert table.numbers_of(name, "K") == [float(run.data.params["num_clusters"])]
        assert table.rows[table.row(name)][table.column("method")] == run.data.tags["usseg.method"]
    ranked = sorted(trials, key=lambda name: -trials[name].data.metrics["unsup_miou"])
    places = [table.numbers_of(name, "rank") for name in ranked]
    assert places == [[float(rank)] for rank in range(1, len(trials) + 1)]


def test_floors_stand_among_the_trials_without_a_rank(page: Page, runs: dict[str, Run]) -> None:
    table = page.table(TRIALS_TABLE)
    parent = runs["first-1a2b3c"].data.metrics
    kinds = {"position": "floor", "colour": "floor", "kmeans": "features", "linear": "supervised"}
    for name, kind in kinds.items():
        shown = f"{name} ({kind})"
        assert table.numbers_of(shown, MIOU) == [parent[f"baseline.{name}"]]
        assert table.numbers_of(shown, "rank") == []
        assert table.kinds[table.row(shown)] == kind
    scores = [numbers[table.column(MIOU)][0] for numbers in table.numbers]
    assert scores == sorted(scores, reverse=True)
    finals = page.table(FINALS_TABLE)
    assert finals.numbers_of("position (floor)", MIOU) == [parent["test.baseline.position"]]


def test_finalists_have_means_and_deviations_over_seeds(page: Page, runs: dict[str, Run]) -> None:
    table = page.table(FINALS_TABLE)
    heads = {
        "unsup_miou": MIOU,
        "unsup_acc": "accuracy, %",
        "linear_miou": "linear probe (supervised), %",
    }
    for trial in ("trial_000", "trial_003"):
        for metric, head in heads.items():
            values = [run.data.metrics[f"test.{metric}"] for run in seeds(runs, trial)]
            assert len(values) == 3
            assert table.numbers_of(trial, head) == pytest.approx([fmean(values), stdev(values)])
        assert table.numbers_of(trial, "seeds") == [3.0]
    assert table.numbers_of("trial_003", "rank") == [1.0]
    first = table.rows[table.row("trial_003")]
    assert first[table.column("remark")] == "the sweep's choice"
    behind = table.rows[table.row("trial_000")]
    assert table.numbers_of("trial_000", "behind the choice, points") == [
        runs["trial_000"].data.metrics["test.behind"]
    ]
    assert behind[table.column("95 % of a paired bootstrap")] == "-0.5 to 4.5"
    assert behind[table.column("beyond noise?")] == "no, noise"


def test_published_numbers_are_marked_and_never_ranked(page: Page) -> None:
    # PiCIE's own numbers were measured as these, on val, without a refiner.
    table = page.table(TRIALS_TABLE)
    name = "picie, ResNet-18 FPN (published)"
    assert table.kinds[table.row(name)] == "published"
    assert table.numbers_of(name, MIOU) == [13.8]
    assert table.numbers_of(name, "rank") == []
    assert table.rows[table.row(name)][table.column("remark")] == "not ours: Cho et al., CVPR 2021"
    others = [t for t in page.tables if t.caption.startswith("Published, under another protocol")]
    assert {"stego-320" in t.caption for t in others} == {True}
    assert not any(row[0].startswith("trial") for t in others for row in t.rows)
    assert page.table(FINALS_TABLE).kinds.count("published") == 0


def test_sweeps_of_different_protocols_are_in_different_tables(store: Store) -> None:
    page = Page(as_html(compose(store, store.sweeps(["first", HOSTILE]), "")))
    captions = [t.caption for t in page.tables if t.caption.startswith("Trials, ranked")]
    assert captions == [TRIALS_TABLE, f"Trials, ranked on the selection split: {OTHER_STAMP}"]
    own, other = (page.table(caption) for caption in captions)
    assert len([row for row in own.rows if row[0].startswith("trial")]) == len(TRIALS)
    assert sorted(row[0] for row in other.rows) == ["trial_000", "trial_001"]
    # The failed trial scored more, and is not the first.
    assert other.numbers_of("trial_001", "rank") == [1.0]
    assert other.numbers_of("trial_000", "rank") == []
    assert "failed; collapsed" in other.rows[other.row("trial_000")][other.column("remark")]
