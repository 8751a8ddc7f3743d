"""A report as text for other programs: rounded in Markdown, in full in CSV and JSON."""

import csv
import io
import json

from mlflow.entities import Run

from tests.reported import (
    FINALS_TABLE,
    TRIALS_TABLE,
)
from usseg_ray.core.table import Column, Table, TableRow
from usseg_ray.report.content import Code, Report, Section
from usseg_ray.report.plain import report_csv, report_json, report_markdown
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose


def test_other_formats_have_the_same_numbers(store: Store, trials: dict[str, Run]) -> None:
    found = compose(store, store.sweeps(["first"]), "")
    scores = {name: run.data.metrics["unsup_miou"] for name, run in trials.items()}
    rows = [r for r in csv.DictReader(io.StringIO(report_csv(found))) if r["table"] == TRIALS_TABLE]
    assert {r["name"]: float(r["unsup_miou"]) for r in rows if r["rank"]} == scores
    tables = json.loads(report_json(found))["sections"]["leaderboard"]
    (table,) = (one for one in tables if one["caption"] == TRIALS_TABLE)
    assert {r["name"]: r["unsup_miou"] for r in table["rows"] if "rank" in r} == scores
    (finals,) = (one for one in tables if one["caption"] == FINALS_TABLE)
    assert all("unsup_miou_deviation" in r for r in finals["rows"] if "seeds" in r)
    text = report_markdown(found)
    assert all(f"| {name} | " in text for name in scores)
    assert f"| {scores['trial_003']:.1f} | " in text


def test_headings_and_commands_are_no_markdown_of_a_stranger() -> None:
    name = "![i](u)\x1b\n# b"
    table = Table(name, (Column("name", "name"),), (TableRow({"name": "a"}),))
    section = Section("leaderboard", name, (table,))
    text = report_markdown(Report(name, {}, (section,), (Code(name, ("cd x\n```\x1b",)),)))
    assert "\x1b" not in text
    assert text.count("!\\[i\\](u)") == 4
    assert "\n# b" not in text
    assert "cd x ```\\x1b" in text
