"""Writes a report's tables as Markdown, CSV or JSON, for other programs and for notes.

It stands beside `page`. CSV and JSON have numbers in full; Markdown rounds them.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence

from usseg_ray.report.content import Cell, Column, Report, Spread, Table


def as_markdown(report: Report) -> str:
    """Writes all tables as Markdown."""
    lines = [f"# {report.title}"]
    for answer in report.answers:
        lines += ["", f"**{_escaped(answer.caption)}**", *_fenced(answer.lines)]
    heading = ""
    for section, table in report.tables():
        if section.title != heading:
            heading = section.title
            lines += ["", f"## {heading}"]
        lines += ["", table.caption, "", *_markdown(table)]
    return "\n".join(lines) + "\n"


def as_csv(report: Report) -> str:
    """Writes the leaderboards, one row a line; `table` says which, and with it the protocol."""
    tables = [table for section, table in report.tables() if section.key == "leaderboard"]
    rows = [
        {"table": table.caption, "kind": row.kind, **_flat(row.cells)}
        for table in tables
        for row in table.rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(report: Report) -> str:
    """Writes all tables, section by section."""
    sections: dict[str, list[dict[str, object]]] = {}
    for section, table in report.tables():
        rows = [{"kind": row.kind, **_flat(row.cells)} for row in table.rows]
        found: dict[str, object] = {"caption": table.caption, "rows": rows}
        sections.setdefault(section.key, []).append(found)
    answers = [{"sentence": one.caption, "commands": one.lines} for one in report.answers]
    whole = {"title": report.title, "answers": answers, **report.facts, "sections": sections}
    return json.dumps(whole, indent=1) + "\n"


def written(column: Column, value: Cell) -> str:
    """Writes a cell as text, rounded as its column asks."""
    if isinstance(value, Spread):
        around = "" if value.deviation is None else f" ± {column.write(value.deviation)}"
        return column.write(value.mean) + around
    return value if isinstance(value, str) else "" if value is None else column.write(value)


def _flat(cells: Mapping[str, Cell]) -> dict[str, str | float]:
    """Writes a mean and its deviation as two values, and leaves out what is empty."""
    found: dict[str, str | float] = {}
    for key, value in cells.items():
        if isinstance(value, Spread):
            found[key] = value.mean
            if value.deviation is not None:
                found[f"{key}_deviation"] = value.deviation
        elif value is not None:
            found[key] = value
    return found


def _markdown(table: Table) -> list[str]:
    columns = table.shown()
    lines = [[column.title for column in columns], ["---"] * len(columns)]
    lines += [[written(c, row.cells.get(c.key)) for c in columns] for row in table.rows]
    return [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines]


def _fenced(lines: Sequence[str]) -> list[str]:
    return ["", "```sh", *lines, "```"] if lines else []


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
