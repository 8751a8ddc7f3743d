"""Leaderboards on a real MLflow store: every number is the store's, and ranks compare."""

from dataclasses import replace
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
from usseg_ray.core.table import OURS, Table
from usseg_ray.report.leaderboard import leaderboard_section
from usseg_ray.report.page import as_html
from usseg_ray.report.read import RunRecord, Store, SweepRecord
from usseg_ray.report.repeat import compose
from usseg_ray.tracking.store import SEED_TAG, TRIAL_TAG

PICKED = "settings picked by labels of val"
STAMP = "scenes val, centre-crop: centre square at short side 320, bilinear, one-to-one; textons"


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
    table, further = page.table(FINALS_TABLE), page.table("Further scores of the finalists")
    # On a phone no more is seen at first.
    assert table.heads[:3] == ["trial", MIOU, "beyond noise?"]
    heads = {
        "unsup_miou": MIOU,
        "unsup_acc": "accuracy, %",
        "linear_miou": "linear probe (supervised), %",
    }
    for trial in ("trial_000", "trial_003"):
        for metric, head in heads.items():
            values = [run.data.metrics[f"test.{metric}"] for run in seeds(runs, trial)]
            assert len(values) == 3
            holder = table if metric == "unsup_miou" else further
            assert holder.numbers_of(trial, head) == pytest.approx([fmean(values), stdev(values)])
        assert table.numbers_of(trial, "seeds") == [3.0]
    assert table.numbers_of("trial_003", "rank") == [1.0]
    first = table.rows[table.row("trial_003")]
    assert first[table.column("remark")] == "the sweep's choice"
    behind = table.rows[table.row("trial_000")]
    assert table.numbers_of("trial_000", "behind the choice, points") == [
        runs["trial_000"].data.metrics["test.behind"]
    ]
    assert behind[table.column("95 % over images and seeds")] == "-0.5 to 4.5"
    assert behind[table.column("beyond noise?")] == "no, noise"


def test_published_numbers_are_marked_and_never_ranked(page: Page) -> None:
    # PiCIE's own numbers were measured as these, without a refiner on the official validation
    # split, which is `test` here.
    table = page.table(FINALS_TABLE)
    name = "picie, ResNet-18 FPN (published)"
    assert table.kinds[table.row(name)] == "published"
    assert table.numbers_of(name, MIOU) == [13.8]
    assert table.numbers_of(name, "rank") == []
    assert table.rows[table.row(name)][table.column("remark")] == "not ours: Cho et al., CVPR 2021"
    others = [t for t in page.tables if t.caption.startswith("Published, under another protocol")]
    assert {"stego-320" in t.caption for t in others} == {True}
    assert not any(row[0].startswith("trial") for t in others for row in t.rows)
    assert page.table(TRIALS_TABLE).kinds.count("published") == 0


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


def run(trial: str, miou: float, metrics: dict[str, float], seed: str = "") -> RunRecord:
    tags = {TRIAL_TAG: trial, "usseg.method": "acseg"} | ({SEED_TAG: seed} if seed else {})
    found = {"unsup_miou": miou, "test.unsup_miou": miou} | metrics
    return RunRecord(trial, trial, "FINISHED", 0, 1.0, {}, tags, found)


def sweep(name: str, picked: str, behind: dict[str, float]) -> SweepRecord:
    tags = {"usseg.folder": name, "usseg.protocol": STAMP} | (
        {"usseg.picked": picked} if picked else {}
    )
    parent = RunRecord(name, name, "FINISHED", 0, 1.0, {}, tags, {})
    ends = {f"test.behind{end}": value for end, value in behind.items()}
    trials = (run("trial_000", 40.0, {}), run("trial_001", 30.0, ends))
    return SweepRecord(parent, trials, tuple(run(t.trial, 30.0, {}, "0") for t in trials))


def finalists(*sweeps: SweepRecord) -> Table:
    table = leaderboard_section(sweeps).blocks[0]
    assert isinstance(table, Table)
    return table


def test_the_caption_says_what_picked_them() -> None:
    one = sweep("one", PICKED, {})
    assert finalists(one).caption.endswith(f"textons; {PICKED}")
    assert finalists(one, sweep("two", PICKED, {})).caption.endswith(f"textons; {PICKED}")
    other = sweep("two", "", {})
    assert finalists(one, other).caption.endswith(f"textons; one: {PICKED}")
    assert finalists(other).caption.endswith("textons")


def test_what_an_earlier_life_left_in_the_store_is_not_shown() -> None:
    one = sweep("one", "", {"": 3.0, "_low": 1.0, "_high": 5.0})
    first, second = one.trials
    tags = one.parent.tags | {"usseg.finalists": "trial_001"}
    now = replace(one, parent=replace(one.parent, tags=tags), trials=(second, first))
    (row, *others) = [row for row in finalists(now).rows if row.kind in OURS]
    assert not others
    assert (row.cells["name"], row.cells["remark"]) == ("trial_001", "the sweep's choice")
    assert "behind" not in row.cells


def test_one_seed_is_too_few() -> None:
    for behind, said in (
        ({"": 2.0}, (None, "too few seeds")),
        ({"": 2.0, "_low": -1.0, "_high": 5.0}, ("-1.0 to 5.0", "no, noise")),
        ({"": 2.0, "_low": 1.0, "_high": 3.0}, ("1.0 to 3.0", "yes")),
    ):
        rows = {row.cells["name"]: row.cells for row in finalists(sweep("one", "", behind)).rows}
        cells = rows["trial_001"]
        assert (cells["interval"], cells["noise"]) == said
        assert cells["behind"] == 2.0
