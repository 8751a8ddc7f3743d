"""What a report consists of, whatever it is written as: sections of tables, charts and pictures.

It stands between the builders, which know what numbers mean, and the writers (`page`, `plain`),
which know a format. Cells keep their numbers in full; writers round them.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

RowKind = Literal["", "best", "floor", "features", "supervised", "published"]
"""What a row is, where it is no trial of ours: only rows of the first two kinds have a rank."""


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        mean: Their mean.
        deviation: Their sample standard deviation; `None` for a single one.
        count: How many they are.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Summarises values; `None` where there are none."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


Cell = str | float | Spread | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: Names it in CSV and JSON.
        title: Heads it.
        digits: Decimals of its numbers; `None` for four figures.
    """

    key: str
    title: str
    digits: int | None = 1

    def write(self, value: float) -> str:
        """Rounds a number of this column."""
        return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        cells: Column key -> value; a missing one is empty.
        kind: What it is.
    """

    cells: Mapping[str, Cell]
    kind: RowKind = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column of a row says what the row is about.

    Attributes:
        caption: What it shows, and under which protocol.
        columns: Its columns; the first heads the rows.
        rows: Its rows, in order.
        folded: Whether a page shows it only to those who open it.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    folded: bool = False

    def shown(self) -> tuple[Column, ...]:
        """Lists the columns in which some row has a value."""
        return tuple(
            c for c in self.columns if any(r.cells.get(c.key) is not None for r in self.rows)
        )


@dataclass(frozen=True)
class Chart:
    """A drawing, with the table of the numbers that it shows.

    Attributes:
        svg: The drawing, an `svg` element with a title and a description.
        numbers: What is drawn.
    """

    svg: str
    numbers: Table


@dataclass(frozen=True)
class Picture:
    """An embedded picture.

    Attributes:
        source: A data URI.
        size: Width and height, pixels.
        text: Says to those who do not see it what it shows.
        caption: Stands beneath it.
    """

    source: str
    size: tuple[int, int]
    text: str
    caption: str


@dataclass(frozen=True)
class PictureGrid:
    """Pictures to compare, side by side.

    Attributes:
        title: What they show, and under which protocol.
        pictures: The pictures.
        legend: Names and colours (`#rrggbb`, or empty) of what they are painted with.
    """

    title: str
    pictures: tuple[Picture, ...]
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Lines for a terminal, with what they do."""

    caption: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str


PageBlock = Table | Chart | PictureGrid | Code | Note


@dataclass(frozen=True)
class Section:
    """A part of the report under its own heading.

    Attributes:
        key: Names it in links and in JSON.
        title: Its heading.
        blocks: What it shows; a note alone says why it shows nothing.
    """

    key: str
    title: str
    blocks: tuple[PageBlock, ...]


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: Its heading.
        facts: What it is about: name -> value.
        sections: Its sections, in order.
        answers: What each sweep came to, with the command to go on with; what it opens with.
    """

    title: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]
    answers: tuple[Code, ...] = ()

    def tables(self) -> list[tuple[Section, Table]]:
        """Lists all tables, those behind the charts included."""
        return [
            (section, block.numbers if isinstance(block, Chart) else block)
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Table | Chart)
        ]
