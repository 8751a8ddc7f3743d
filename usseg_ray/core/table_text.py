"""Writes tables for a terminal, as Markdown and as CSV; the report's page writes HTML itself."""

import csv
import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table as Grid

from usseg_ray.core import foreign
from usseg_ray.core.table import OURS, Column, Table, TableRow, flat, written


def as_rich(table: Table) -> Grid:
    """Lays a table out for a terminal.

    A remark has no column there, which would cost width, but stands behind the row's name. What is
    no trial of ours is dim; where nothing is ranked, it stands beneath a line.

    Args:
        table: Any; of its columns those with a value are shown.
    """
    grid = Grid(
        title=escape(table.caption) or None,
        title_justify="left",
        show_edge=False,
        pad_edge=False,
        box=box.HEAVY_HEAD,
    )
    columns = [column for column in table.shown() if column.key != "remark"]
    for column in columns:
        grid.add_column(
            escape(column.title),
            justify="right" if _is_number(column, table.rows) else "left",
            no_wrap=column.whole,
            overflow="fold",
        )
    ranked = any(column.key == "rank" for column in columns)
    for place, row in enumerate(table.rows):
        theirs = row.kind not in OURS
        if theirs and not ranked and place and table.rows[place - 1].kind in OURS:
            grid.add_section()
        cells = (_terminal(column, row) for column in columns)
        grid.add_row(*cells, style="dim" if theirs else None)
    return grid


def _is_number(column: Column, rows: Sequence[TableRow]) -> bool:
    return not any(isinstance(row.cells.get(column.key), str) for row in rows)


def _terminal(column: Column, row: TableRow) -> str:
    value = row.cells.get(column.key)
    if value is None:
        return "-" if column.key in row.cells else ""
    text, remark = escape(written(column, value)), row.cells.get("remark")
    if column.key != "name" or not isinstance(remark, str):
        return text
    return f"{text} [yellow]{escape(remark)}[/]"


def as_markdown(table: Table) -> list[str]:
    """Writes a table's lines as Markdown, without its caption."""
    columns = table.shown()
    lines = [[column.title for column in columns], ["---"] * len(columns)]
    lines += [[written(c, row.cells.get(c.key)) for c in columns] for row in table.rows]
    return [f"| {' | '.join(map(foreign.markdown_safe, line))} |" for line in lines]


def as_csv(tables: Iterable[Table]) -> str:
    """Writes tables in full, one row a line; `table` says which, and with it the protocol."""
    found = [
        {"table": table.caption, "kind": row.kind, **flat(row.cells)}
        for table in tables
        for row in table.rows
    ]
    text = io.StringIO()
    keys = list(dict.fromkeys(key for row in found for key in row))
    writer = csv.writer(text)
    writer.writerow(map(foreign.printable, keys))
    writer.writerows([_plain(row.get(key, "")) for key in keys] for row in found)
    return text.getvalue()


def _plain(cell: str | float) -> str | float:
    return foreign.printable(cell) if isinstance(cell, str) else cell


def as_records(table: Table) -> dict[str, object]:
    """Lists what a table holds in full, for JSON."""
    rows = [{"kind": row.kind, **flat(row.cells)} for row in table.rows]
    return {"caption": table.caption, "rows": rows}
