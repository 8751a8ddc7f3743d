"""Runs are kept, compared with those on equal machines, and noise is no news."""

import json
from pathlib import Path
from typing import Any

import pytest

from usseg_ray.bench.history import (
    NOISE,
    Record,
    append,
    change_table,
    changes_since,
    history_path,
    load_history,
    make_record,
)
from usseg_ray.bench.meter import Measure
from usseg_ray.core.errors import UserError


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "sets"))
    return tmp_path / "sets"


def loss(value: float, reference: float = 2.0) -> Measure:
    return Measure("methods", "loss", value, "CPU s", "a product", reference, 1.5)


def rate(value: float) -> Measure:
    return Measure("io", "decode", value, "images/s", "Pillow", 400.0)


def record(*measures: Measure) -> Record:
    return make_record("all", measures, full=False)


def test_a_run_says_what_it_depends_on_and_comes_back() -> None:
    first, second = record(loss(3.0), rate(600.0)), record(loss(2.0))
    assert append(first) == append(second) == history_path()
    assert load_history() == [first, second]
    assert {"date", "what", "full", "versions", "machine", "load", "measures"} == set(first)
    assert first["machine"]["cores"] >= 1
    assert {"usseg_ray", "python", "torch"} <= set(first["versions"])
    assert [one["passed"] for one in first["measures"]] == [True, True]
    json.dumps(first, allow_nan=False)


def test_runs_on_other_machines_are_left_out() -> None:
    here = record(loss(3.0))
    other = record(loss(1.0))
    other["machine"] = other["machine"] | {"cores": 1000}
    for one in (other, here):
        append(one)
    assert load_history() == [here]


@pytest.mark.parametrize("line", ["{", "[]", '{"date": ""}'])
def test_a_damaged_line_is_named(line: str) -> None:
    append(record(loss(3.0)))
    with history_path().open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"bench\.jsonl: line 2 is damaged"):
        load_history()


def test_a_folder_that_cannot_be_written_is_one_clear_line(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(UserError, match="Choose another folder with USSEG_DATA"):
        append(record(loss(3.0)))


def changes(*runs: Measure, what: str = "all") -> Any:
    return changes_since([record(run) for run in runs], what)


@pytest.mark.parametrize(
    ("before", "last", "times_better"),
    [
        (loss(3.0), loss(1.5), 2.0),
        (loss(3.0), loss(6.0), 0.5),
        (rate(300.0), rate(600.0), 2.0),
        (rate(600.0), rate(300.0), 0.5),
        # The machine was half as fast, the loss was not.
        (loss(3.0, 2.0), loss(6.0, 4.0), 1.0),
    ],
)
def test_better_is_less_of_seconds_and_more_of_rates(
    before: Measure, last: Measure, times_better: float
) -> None:
    (change,) = changes(before, last)
    assert change.times_better == pytest.approx(times_better)
    assert (change.better, change.worse) == (times_better > 1.5, times_better < 0.75)


def test_noise_is_what_earlier_runs_show() -> None:
    (calm,) = changes(loss(3.0), loss(3.3))
    assert calm.noise == NOISE
    assert not calm.worse
    (news,) = changes(loss(3.0), loss(3.01), loss(3.0), loss(3.6))
    assert news.noise == NOISE
    assert news.worse
    (restless,) = changes(loss(3.0), loss(4.5), loss(3.0), loss(3.6))
    assert restless.noise > 0.4
    assert not restless.worse


def test_a_figure_is_compared_with_the_latest_run_that_has_it() -> None:
    runs = [record(loss(1.0), rate(500.0)), record(rate(250.0)), record(loss(2.0))]
    (change,) = changes_since(runs)
    assert (change.before.value, change.last.value, change.date) == (1.0, 2.0, runs[0]["date"])
    (other,) = changes_since(runs, "io")
    assert (other.before.value, other.last.value) == (500.0, 250.0)


def test_a_figure_without_a_reference_is_compared_itself() -> None:
    before, last = (Measure("crf", "exact", v, "ms/image", "absent", None) for v in (20.0, 40.0))
    (change,) = changes(before, last)
    assert change.times_better == pytest.approx(0.5)


def test_a_comparison_takes_two_runs() -> None:
    with pytest.raises(UserError, match="has 1 run of `bench io` on a machine like this one"):
        changes_since([record(rate(1.0)), record(loss(1.0))], "io")


def test_the_table_marks_what_is_worse_and_better() -> None:
    found = changes_since([record(loss(3.0), rate(300.0)), record(loss(6.0), rate(600.0))])
    verdicts = list(change_table(found).columns[-1].cells)
    assert ["worse" in str(one) for one in verdicts] == [True, False]
    assert ["better" in str(one) for one in verdicts] == [False, True]
