"""What a report consists of: spreads of several values, and tables that hide what is empty."""

from usseg_ray.report.content import Column, Table, TableRow


def test_a_column_without_any_value_is_not_shown() -> None:
    columns = (Column("a", "A"), Column("b", "B"), Column("c", "C"))
    table = Table("caption", columns, (TableRow({"a": "x"}), TableRow({"a": "y", "c": 0.0})))
    assert [column.key for column in table.shown()] == ["a", "c"]
