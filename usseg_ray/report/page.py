"""Writes a report as one HTML page that needs nothing else: no network, no script, no other file.

It stands at the end, beside `plain`. The page is plain semantic HTML; its style sheet is
`page.css`, and `page.js` lets its reader sort tables. Every text is escaped: names in a store come
from anybody.
"""

from collections.abc import Sequence
from html import escape
from importlib import resources
from itertools import groupby

from usseg_ray.core.page import document
from usseg_ray.core.table import Cell, Column, Spread, Table, TableRow, written
from usseg_ray.report.content import (
    Chart,
    Code,
    Note,
    PageBlock,
    Picture,
    PictureGrid,
    Report,
    Section,
)

_SHORT = 6  # letters of a heading that need no width of their own
_SLIM = 3  # columns of a table that fits a phone as it is
_MANY = 400  # rows beyond which cards on a phone are no help, and every byte of a cell counts


def as_html(report: Report) -> str:
    """Writes a report as a page.

    Args:
        report: What to write.

    Returns:
        The page, in UTF-8's characters.
    """
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.facts.items())
    answers = "".join(map(_answer, report.answers))
    links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in report.sections)
    sections = "".join(map(_section, report.sections))
    body = (
        f'<a class="skip" href="#main">To the leaderboard</a>\n'
        f"<header><h1>{escape(report.title)}</h1>{answers}<dl>{facts}</dl></header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f'<main id="main">\n{sections}</main>\n'
    )
    return document(report.title, _resource("page.css"), _resource("page.js"), body)


def _answer(answer: Code) -> str:
    lines = (
        f"<pre><code>{escape(command)}</code></pre>" if (command := "\n".join(answer.lines)) else ""
    )
    return f'<p class="answer"><strong>{escape(answer.caption)}</strong></p>{lines}'


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _section(section: Section) -> str:
    """Writes a section; charts that follow each other share a grid."""
    parts = []
    numbered = enumerate(section.blocks)
    for is_chart, group in groupby(numbered, key=lambda one: isinstance(one[1], Chart)):
        written_blocks = "".join(_block(block, f"{section.key}-{n}") for n, block in group)
        parts.append(f'<div class="charts">{written_blocks}</div>' if is_chart else written_blocks)
    heading = f'<h2 id="{section.key}-heading">{escape(section.title)}</h2>'
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-heading">{heading}'
        f"{''.join(parts)}</section>\n"
    )


def _block(block: PageBlock, key: str) -> str:
    match block:
        case Table(folded=True):
            inner = _table(block, key)
            return f"<details><summary>{escape(block.caption)}</summary>{inner}</details>"
        case Table():
            return _table(block, key)
        case Chart():
            return _chart(block, key)
        case PictureGrid():
            return _gallery(block)
        case Code():
            lines = escape("\n".join(block.lines))
            return f"<p>{escape(block.caption)}:</p><pre><code>{lines}</code></pre>"
        case Note():
            return f"<p>{escape(block.text)}</p>"


def _table(table: Table, key: str) -> str:
    """Writes a table in a container of its own, which scrolls by keyboard where it is too wide.

    On a phone nothing does: rows of many columns are cards there, which have the headings in them.
    But where there are very many rows, they stay a table.
    """
    columns, many = table.shown(), len(table.rows) > _MANY
    kind = " many" if many else " cards" if len(columns) > _SLIM else ""
    numeric = {column.key for column in columns if _is_numeric(column, table.rows)}
    head = "".join(
        f'<th scope="col" class="{_style(c, numeric)}">{escape(c.title)}</th>' for c in columns
    )
    write = _lean_row if many else _row
    body = "".join(write(row, columns, numeric) for row in table.rows)
    caption = f'<caption id="{key}-caption"><span>{escape(table.caption)}</span></caption>'
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{key}-caption">'
        f'<table class="sortable{kind}">{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_numeric(column: Column, rows: Sequence[TableRow]) -> bool:
    values = [value for row in rows if (value := row.cells.get(column.key)) is not None]
    return not any(isinstance(value, str) for value in values)


def _style(column: Column, numeric: set[str]) -> str:
    if column.key in numeric:
        return "number short" if len(column.title) < _SHORT else "number"
    return "remark" if column.key == "remark" else "text"


def _row(row: TableRow, columns: Sequence[Column], numeric: set[str]) -> str:
    cells = []
    for place, column in enumerate(columns):
        content, style = _cell(column, row.cells.get(column.key)), _style(column, numeric)
        cells.append(
            f'<td class="{style}" data-label="{escape(column.title)}">{content}</td>'
            if place
            else f'<th scope="row">{content}</th>'
        )
    kind = f' class="{row.kind}"' if row.kind else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _lean_row(row: TableRow, columns: Sequence[Column], numeric: set[str]) -> str:
    """Writes one of many rows without the tags and quotes that HTML can do without.

    Its cells are numbers where they do not say otherwise.
    """
    first, *rest = columns
    cells = "".join(
        f"<td{'' if c.key in numeric else f' class={_style(c, numeric)}'}>"
        f"{_cell(c, row.cells.get(c.key))}"
        for c in rest
    )
    kind = f" class={row.kind}" if row.kind else ""
    return f"<tr{kind}><th scope=row>{_cell(first, row.cells.get(first.key))}{cells}"


def _cell(column: Column, value: Cell) -> str:
    """Writes a cell; numbers keep all their digits in the `value` of a `data` element."""
    if isinstance(value, Spread):
        around = "" if value.deviation is None else f" ± {_number(column, value.deviation)}"
        return _number(column, value.mean) + around
    if value is None or isinstance(value, str):
        return escape(value or "")
    return _number(column, value)


def _number(column: Column, value: float) -> str:
    return f'<data value="{value!r}">{escape(written(column, value))}</data>'


def _chart(chart: Chart, key: str) -> str:
    label = escape(chart.numbers.caption)
    narrow = "".join(chart.narrow)
    drawn = f'<div class="desk">{chart.svg}</div><div class="phone">{narrow}</div>'
    return (
        f'<figure><figcaption id="{key}-chart">{label}</figcaption>'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{key}-chart">'
        f"{drawn if narrow else chart.svg}</div>"
        f"<details><summary>The numbers of this chart</summary>{_table(chart.numbers, key)}"
        "</details></figure>"
    )


def _gallery(gallery: PictureGrid) -> str:
    pictures = "".join(map(_picture, gallery.pictures))
    large = " large" if not gallery.legend else ""
    legend = "".join(f"<li>{_swatch(colour)}{escape(n)}</li>" for n, colour in gallery.legend)
    listed = f'<ul class="legend" aria-label="Legend">{legend}</ul>' if legend else ""
    title = f"<h3>{escape(gallery.title)}</h3>"
    return f'{title}<div class="gallery{large}">{pictures}</div>{listed}'


def _picture(picture: Picture) -> str:
    width, height = picture.size
    return (
        f'<figure><img src="{picture.source}" width="{width}" height="{height}" '
        f'alt="{escape(picture.text)}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
    )


def _swatch(colour: str) -> str:
    if not colour:
        return ""
    square = f'<rect width="14" height="14" fill="{escape(colour)}"/>'
    return f'<svg width="14" height="14" aria-hidden="true">{square}</svg>'
