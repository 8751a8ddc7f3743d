"""Writes a report's tables as Markdown, CSV or JSON, for other programs and for notes.

It stands beside `page`. CSV and JSON have numbers in full; Markdown rounds them.
"""

import json
from collections.abc import Sequence

from usseg_ray.core import table_text
from usseg_ray.core.foreign import in_one_line
from usseg_ray.core.foreign import markdown_safe as escaped
from usseg_ray.core.table_text import as_records
from usseg_ray.report.content import Report


def report_markdown(report: Report) -> str:
    """Writes all tables as Markdown."""
    lines = [f"# {escaped(report.title)}"]
    for answer in report.answers:
        lines += ["", f"**{escaped(answer.caption)}**", *_fenced(answer.lines)]
    heading = ""
    for section, table in report.tables():
        if section.title != heading:
            heading = section.title
            lines += ["", f"## {escaped(heading)}"]
        lines += ["", escaped(table.caption), "", *table_text.as_markdown(table)]
    return "\n".join(lines) + "\n"


def report_csv(report: Report) -> str:
    """Writes the leaderboards, one row a line; `table` says which, and with it the protocol."""
    leaderboards = (t for section, t in report.tables() if section.key == "leaderboard")
    return table_text.as_csv(leaderboards)


def report_json(report: Report) -> str:
    """Writes all tables, section by section."""
    sections: dict[str, list[dict[str, object]]] = {}
    for section, table in report.tables():
        sections.setdefault(section.key, []).append(as_records(table))
    answers = [{"sentence": one.caption, "commands": one.lines} for one in report.answers]
    whole = {"title": report.title, "answers": answers, **report.facts, "sections": sections}
    return json.dumps(whole, indent=1) + "\n"


def _fenced(lines: Sequence[str]) -> list[str]:
    return ["", "```sh", *map(in_one_line, lines), "```"] if lines else []
