"""What a report consists of, whatever it is written as: sections of tables, charts and pictures.

It stands between the builders, which know what numbers mean, and the writers (`page`, `plain`),
which know a format. Its tables are those of `core.table`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from usseg_ray.core.table import Table


@dataclass(frozen=True)
class Chart:
    """A drawing, with the table of the numbers that it shows.

    Attributes:
        svg: The drawing, an `svg` element with a title and a description.
        numbers: What is drawn.
        narrow: The same in several drawings, for a screen on which `svg` would be too small.
    """

    svg: str
    numbers: Table
    narrow: tuple[str, ...] = ()


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
