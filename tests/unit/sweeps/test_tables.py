import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table as Grid

from tests.told import cells, shown, trial
from usseg_ray.core.table_text import as_rich
from usseg_ray.engine.baselines import label
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.answer import Answer
from usseg_ray.sweeps.criteria import Trust
from usseg_ray.sweeps.finals.scores import Finalist
from usseg_ray.sweeps.tables import (
    cost_line,
    draws_table,
    final_table,
    leaderboard,
    number,
    print_answer,
    sampled,
    trust_table,
    value,
)
from usseg_ray.trials.trial import Status, Trial

BASELINES = {
    "val": {"position": 20.0, "colour": 22.5, "kmeans": 31.0, "linear": 70.0},
    "test": {"position": 99.0},
}


def board(*trials: Trial, baselines: Any = BASELINES) -> Grid:
    found = leaderboard(trials, ["method.gamma"], baselines, split="val", title="a protocol")
    return as_rich(found)


def test_trials_ranked_without_labels_stand_above_the_baselines() -> None:
    found = {"label_free.stability": 0.25, "unsup_miou": 60.0}
    weak = trial(0, 60.0, **found)
    strong = trial(1, 30.0, **{"label_free.stability": 0.5})
    failed = trial(2, None)
    for one in (weak, strong, failed):
        one.objective = "label_free.stability"
    table = board(weak, failed, strong)
    headings = [str(column.header) for column in table.columns]
    assert headings[:5] == ["rank", "trial", "stability", "unsup_miou", "acc"]
    rows = [row[1:4] for row in cells(table)]
    assert rows[:2] == [["trial_001", "0.500", "30.0"], ["trial_000", "0.250", "60.0"]]
    assert ["position (floor)", "", "20.0"] in rows


def test_without_labels_there_are_no_columns_of_scores() -> None:
    one = trial(0, None, **{"label_free.stability": 0.5})
    one.objective = "label_free.stability"
    del one.metrics["unsup_acc"]
    table = board(one, baselines={})
    headings = [str(column.header) for column in table.columns]
    assert headings == ["rank", "trial", "stability", "K", "gamma"]
    assert cells(table) == [["1", "trial_000", "0.500", "10", "0.333"]]


def test_an_answer_is_printed_whole_with_its_command_beneath() -> None:
    console = Console(file=io.StringIO(), width=20)
    print_answer(console, Answer("acseg, K = 3 [so it is said] leads", "python -m usseg_ray.tune"))
    assert isinstance(console.file, io.StringIO)
    said = "acseg, K = 3 [so it is said] leads\n  python -m usseg_ray.tune\n"
    assert console.file.getvalue() == said


def test_what_criteria_are_worth_is_shown() -> None:
    rows = [Trust("label_free.stability", 5, 0.5, "trial_003", 0, 31.0, 2.25, 6.0)]
    rows.append(Trust("label_free.entropy", 5, None, "trial_000", 2, 25.0, 8.0, 6.0))
    assert cells(as_rich(trust_table(rows))) == [
        ["stability", "0.50", "trial_003", "31.0", "2.2", "6.0"],
        ["entropy", "-", "trial_000 (+2)", "25.0", "8.0", "6.0"],
    ]


def test_trials_are_ranked_with_the_baselines_among_them() -> None:
    rows = cells(board(trial(0, 25.0), trial(1, 40.0), trial(2, 21.0)))
    assert [(row[0], row[2]) for row in rows] == [
        ("", "70.0"),
        ("1", "40.0"),
        ("", "31.0"),
        ("2", "25.0"),
        ("", "22.5"),
        ("3", "21.0"),
        ("", "20.0"),
    ]
    assert [row[1] for row in rows if row[0]] == ["trial_001", "trial_000", "trial_002"]


def test_baselines_are_named_for_what_they_are() -> None:
    text = shown(board(trial(0, 25.0)))
    for name in ("position (floor)", "colour (floor)", "kmeans (features)"):
        assert name in text
    assert "linear (supervised)" in text
    assert label("position") == "position (floor)"
    assert "99.0" not in text
    assert "a protocol" in text


def test_a_trials_row() -> None:
    (row,) = cells(board(trial(4, 25.04), baselines={}))
    assert row == ["1", "trial_004", "25.0", "50.0", "14", "0.333"]


def test_what_methods_vary_is_listed_below() -> None:
    other = Trial(1, "kmeans", {}, {"num_clusters": 8}, 1, "FINISHED", {"unsup_miou": 30.0})
    drawn = trial(0, 40.0)
    drawn.sample |= {"clusters_per_class": 1.5}
    found = leaderboard([drawn, other], None, BASELINES, split="test", title="a protocol")
    table = as_rich(found)
    assert [str(column.header) for column in table.columns][2] == "method"
    assert cells(table) == [
        ["", "position (floor)", "", "99.0", "", ""],
        ["1", "trial_000", "acseg", "40.0", "50.0", "10"],
        ["2", "trial_001", "kmeans", "30.0", "-", "8"],
    ]
    line = "gamma=0.333 clusters_per_class=1.5"
    assert cells(draws_table([other, drawn])) == [["trial_000", "acseg", line]]


def test_final_scores_stand_above_the_baselines() -> None:
    scores = {"unsup_miou": 38.04, "unsup_acc": 60.0, "label_selected_miou": 39.0}
    other = {"unsup_miou": 40.04, "unsup_acc": 60.0}
    first = Finalist(trial(3, 40.0), {}, {0: scores, 1: other})
    second = Finalist(trial(1, 39.0), {}, {0: other}, Difference(1.2, -0.5, 3.0))
    third = Finalist(trial(2, 30.0), {}, {0: scores}, Difference(4.0, 2.5, 6.0))
    fourth = Finalist(trial(4, 29.0), {}, {0: scores}, Difference(5.0))
    table = as_rich(final_table([first, second, third, fourth], BASELINES["test"], "test"))
    picked = "settings picked by labels of val"
    assert str(table.title).endswith("over seeds)")
    assert final_table([first], {}, "test", picked).caption.endswith(f"over seeds)\n{picked}")
    assert cells(table) == [
        ["trial_003\nacseg", "13", "2", "39.0 ± 1.4", "60.0 ± 0.0", "39.0", ""],
        ["trial_001\nacseg", "11", "1", "40.0", "60.0", "-", "1.2 [-0.5, 3.0], noise"],
        ["trial_002\nacseg", "12", "1", "38.0", "60.0", "39.0", "4.0 [2.5, 6.0]"],
        ["trial_004\nacseg", "14", "1", "38.0", "60.0", "39.0", "5.0, too few seeds"],
        ["position\n(floor)", "", "", "99.0", "", "", ""],
    ]
    assert "linear" not in [str(column.header) for column in table.columns]  # nobody has one
    assert "on test, every run scored once" in shown(table)


def test_what_a_trial_drew_in_one_line() -> None:
    drawn = {"clusters_per_class": 1.5, "method.gamma": 1 / 3, "backbone.name": "textons"}
    assert sampled({}) == "defaults"
    assert sampled(drawn) == "clusters_per_class=1.5 gamma=0.333 name=textons"


def test_trials_without_a_score_come_last() -> None:
    rows = cells(board(trial(0, None), trial(1, 0.0)))
    assert [row[1] for row in rows][-2:] == ["trial_001", "trial_000"]
    assert rows[-1][2] == "-"


def test_collapse_is_flagged() -> None:
    text = shown(board(trial(0, 5.0, collapsed=1.0), trial(1, 6.0, collapsed=0.0)))
    assert text.count("collapsed") == 1
    assert "trial_000 collapsed" in text


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED", "FAILED", "KILLED"])
def test_a_trial_that_did_not_finish_says_so(status: Status) -> None:
    one = trial(0, 5.0)
    one.status = status
    assert f"trial_000 {status.lower()}" in shown(board(one))
    ranks = [row[0] for row in cells(board(one, trial(1, 4.0), baselines={}))]
    assert ranks == (["1", "2"] if status == "STOPPED" else ["", "1"])


def test_numbers_and_settings() -> None:
    assert (number(None, 1), number(1.25, 1), number(2, 0)) == ("-", "1.2", "2")
    assert (value(1e-4), value(0.123456), value("a"), value(None)) == (
        "0.0001",
        "0.123",
        "a",
        "None",
    )


def test_what_all_runs_took_and_cost() -> None:
    runs = [replace(trial(index, 1.0), seconds=900.04) for index in range(4)]
    assert cost_line(runs, None) == "Training and scoring: 3600.2 s in all 4 runs."
    assert cost_line(runs, 2.5).endswith("s in all 4 runs, price 2.50.")


def test_what_trials_drew_is_shown_as_it_is() -> None:
    drew = Trial(0, "acseg", {"backbone.name": "[/x]"}, {}, 3, "FINISHED")
    assert "name=[/x]" in shown(draws_table([drew]))
