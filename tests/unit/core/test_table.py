"""Tables: spreads of several values, ranked rows, columns that hide where they are empty."""

from usseg_ray.core.table import Column, RowKind, Spread, Table, TableRow, flat, in_order, written


def test_a_column_without_any_value_is_not_shown() -> None:
    columns = (Column("a", "A"), Column("b", "B"), Column("c", "C"))
    table = Table("caption", columns, (TableRow({"a": "x"}), TableRow({"a": "y", "c": 0.0})))
    assert [column.key for column in table.shown()] == ["a", "c"]


def test_means_are_written_with_their_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 4.5])
    assert written(Column("a", "A"), spread) == "2.5 ± 1.8"
    assert written(Column("a", "A"), Spread.of([2.0])) == "2.0"
    assert Spread.of([]) is None
    assert written(Column("a", "A", None), 0.00012346) == "0.0001235"
    assert written(Column("a", "A"), -0.04) == "0.0"


def row(name: str, score: float | Spread | None, kind: RowKind = "") -> TableRow:
    rank = {} if kind else {"rank": 0.0}
    return TableRow({"name": name, "score": score, **rank}, kind)


def test_rows_are_ranked_with_the_baselines_among_them() -> None:
    rows = [row("a", 1.0), row("b", Spread(4.0, 1.0, 2)), row("floor", 2.0, "floor")]
    rows += [row("none", None), row("c", 1.0)]
    found = [(one.cells["name"], one.cells.get("rank")) for one in in_order(rows, "score")]
    assert found == [("b", 1.0), ("floor", None), ("a", 2.0), ("c", 3.0), ("none", None)]


def test_a_mean_and_its_deviation_are_two_values_elsewhere() -> None:
    cells = {"a": Spread(1.5, 0.25, 2), "b": Spread(2.0, None, 1), "c": None, "d": "x"}
    assert flat(cells) == {"a": 1.5, "a_deviation": 0.25, "b": 2.0, "d": "x"}
