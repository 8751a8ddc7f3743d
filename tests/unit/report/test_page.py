"""The style sheet can be read: colours have contrast in both schemes, and pictures fit."""

import re
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest

from tests.reported import (
    HOSTILE,
    Page,
)
from usseg_ray.core.table import Cell, Column, Table, TableRow
from usseg_ray.report.content import Report, Section
from usseg_ray.report.page import as_html
from usseg_ray.report.read import Store
from usseg_ray.report.repeat import compose

STYLE = resources.files("usseg_ray.report").joinpath("page.css").read_text("utf-8")


def schemes() -> list[dict[str, str]]:
    """The colours of the light scheme, the dark one and paper."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks]
    assert len(found) == 3
    return [found[0], found[0] | found[1], found[0] | found[2]]


def luminance(colour: str) -> float:
    value = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", schemes())
def test_text_and_lines_have_the_contrast_that_wcag_asks_for(scheme: dict[str, str]) -> None:
    for text, ground in [
        ("ink", "paper"),
        ("ink", "raised"),
        ("ink", "best"),
        ("ink", "beside"),
        ("quiet", "paper"),
        ("quiet", "best"),
        ("quiet", "beside"),
        ("link", "paper"),
    ]:
        assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for line in ("focus", *(f"s{n}" for n in range(8))):
        assert contrast(scheme[line], scheme["paper"]) >= 3, line


def test_every_colour_of_a_series_is_there() -> None:
    for number in range(8):
        assert f".series-{number} {{ stroke: var(--s{number}); }}" in STYLE
        assert f".fill-{number} {{ fill: var(--s{number}); }}" in STYLE


def test_what_people_named_never_becomes_markup(store: Store) -> None:
    text = as_html(compose(store, store.sweeps([HOSTILE, "first"]), HOSTILE))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("b", "iframe")
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert HOSTILE in "".join(page.text)


def test_the_page_fetches_nothing(page: Page, store: Store) -> None:
    text = as_html(compose(store, store.sweeps(["first"]), ""))
    (policy,) = (m for m in page.all("meta") if "http-equiv" in m)
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"@import|url\(|https?://|srcset=", text)
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert all(found["href"].startswith("#") for found in page.all("a"))
    assert len(text.encode()) < 5_000_000


def test_a_reader_finds_the_way_without_eyes_or_mouse(page: Page) -> None:
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in page.elements:
        assert set(found.get("aria-labelledby", "").split()) <= set(ids)
    assert {found["href"][1:] for found in page.all("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [tag for tag, _ in page.elements if tag in ("header", "nav", "main")] == [
        "header",
        "nav",
        "main",
    ]
    assert all("scope" in head for head in page.all("th"))
    assert all(table.caption for table in page.tables)
    assert all("aria-hidden" in svg or svg["role"] == "img" for svg in page.all("svg"))
    assert all(found["tabindex"] == "0" for found in page.all("div") if "role" in found)


def test_a_row_of_many_columns_has_their_headings_in_it_for_a_phone() -> None:
    columns = [Column(key, f"<{key}>") for key in "abcd"]
    rows = (TableRow(dict.fromkeys("abcd", 1.0)),)
    text = as_html(
        Report(
            "title",
            {},
            tuple(
                Section(f"s{many}", "s", (Table("of", tuple(columns[:many]), rows),))
                for many in (3, 4)
            ),
        )
    )
    slim, wide = Page(text).all("table")
    assert slim["class"] == "sortable"
    assert wide["class"] == "sortable cards"
    labels = [cell["data-label"] for cell in Page(text).all("td")]
    assert labels == ["<b>", "<c>", "<b>", "<c>", "<d>"]


def test_very_many_rows_stay_a_table_whose_cells_are_lean_and_whole() -> None:
    columns = (Column("name", "<trial>"), Column("a", "<a>"), Column("b", "<b>"), Column("c", "c"))
    values: dict[str, Cell] = {"a": 1 / 3, "b": HOSTILE, "c": 2.0}
    rows = tuple(TableRow({"name": f"trial_{n}", **values}, "best") for n in range(500))
    text = as_html(Report("title", {}, (Section("s", "s", (Table("of", columns, rows),)),)))
    page = Page(text)
    (table,) = page.tables
    assert page.all("table")[0]["class"] == "sortable many"
    assert len(table.rows) == 500
    assert table.numbers_of("trial_499", "<a>") == [1 / 3]
    assert table.rows[499] == ["trial_499", "0.3", HOSTILE, "2.0"]
    assert table.kinds[499] == "best"
    # What is no number says so; a number is set to the right by the style sheet.
    assert [cell.get("class") for cell in page.all("td")[:3]] == [None, "text", None]
    assert ".many td:not([class]) { text-align: right; }" in STYLE
