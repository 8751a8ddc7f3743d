"""A table as text: on a terminal, as Markdown, and in full as CSV and for JSON."""

import csv
import io

import pytest
from rich.text import Text

from tests.told import cells, shown
from usseg_ray.core.cli import Terminal
from usseg_ray.core.table import Column, Spread, Table, TableRow
from usseg_ray.core.table_text import as_csv, as_markdown, as_records, as_rich

COLUMNS = (Column("name", "trial", whole=True), Column("miou", "mIoU"), Column("acc", "acc"))
ROWS = (
    TableRow({"name": "a|b", "miou": Spread(30.04, 1.0, 2), "acc": None, "remark": "[stopped]"}),
    TableRow({"name": "<c>", "miou": 20.06, "acc": 50.0}),
    TableRow({"name": "floor", "miou": 10.0}, "floor"),
)
TABLE = Table("a [protocol]", COLUMNS, ROWS)


def test_a_terminal_shows_remarks_behind_names_and_what_is_not_known() -> None:
    grid = as_rich(TABLE)
    assert [[Text.from_markup(cell).plain for cell in row] for row in cells(grid)] == [
        ["a|b [stopped]", "30.0 ± 1.0", "-"],
        ["<c>", "20.1", "50.0"],
        ["floor", "10.0", ""],
    ]
    assert [column.justify for column in grid.columns] == ["left", "right", "right"]
    assert "a [protocol]" in shown(grid)


@pytest.mark.parametrize(("ranked", "lines"), [(False, 2), (True, 1)])
def test_baselines_stand_beneath_a_line_where_nothing_is_ranked(
    *, ranked: bool, lines: int
) -> None:
    rank = (Column("rank", "rank", 0),) if ranked else ()
    rows = (TableRow({"name": "a", "miou": 1.0, "rank": 1.0}), ROWS[2], ROWS[2])
    text = shown(as_rich(Table("", (*COLUMNS, *rank), rows)))
    assert sum(set(line) <= set("━╇─┼") for line in text.split()) == lines


def test_markdown_rounds_and_breaks_no_table() -> None:
    assert as_markdown(TABLE) == [
        "| trial | mIoU | acc |",
        "| --- | --- | --- |",
        "| a\\|b | 30.0 ± 1.0 |  |",
        "| &lt;c> | 20.1 | 50.0 |",
        "| floor | 10.0 |  |",
    ]


def test_csv_and_records_have_numbers_in_full() -> None:
    first, second, _ = csv.DictReader(io.StringIO(as_csv([TABLE])))
    assert (first["table"], first["miou"], first["miou_deviation"]) == (
        "a [protocol]",
        "30.04",
        "1.0",
    )
    assert (second["miou"], second["miou_deviation"], second["kind"]) == ("20.06", "", "")
    found = as_records(TABLE)
    assert found["caption"] == "a [protocol]"
    assert found["rows"] == [
        {"kind": "", "name": "a|b", "miou": 30.04, "miou_deviation": 1.0, "remark": "[stopped]"},
        {"kind": "", "name": "<c>", "miou": 20.06, "acc": 50.0},
        {"kind": "floor", "name": "floor", "miou": 10.0},
    ]


def test_names_from_strangers_act_in_no_format() -> None:
    name = "\x1b]0;t\x07[/x] _a_ ![i](u)\n# b"
    table = Table(name, COLUMNS, (TableRow({"name": name, "miou": 1.0, name: "x"}),))
    assert "\x1b" not in as_csv([table])
    assert as_markdown(table)[2].startswith(
        "| \\\\x1b\\]0;t\\\\x07\\[/x\\] \\_a\\_ !\\[i\\](u) # b | "
    )
    said = io.StringIO()
    Terminal(file=said, width=200).print(as_rich(table))
    assert said.getvalue().count("\\x1b]0;t\\x07[/x] _a_ ![i](u)") == 2
    assert "\x1b" not in said.getvalue()
