"""Tables, whatever they are written as: typed cells, ranked rows, numbers kept in full.

Who builds one knows what its numbers mean; the writers (`table_text`, the report's page) know a
format, and round.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

RowKind = Literal["", "best", "floor", "features", "supervised", "published"]
"""What a row is, where it is no trial of ours: only rows of the first two kinds have a rank."""

OURS: tuple[RowKind, ...] = ("", "best")


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
        whole: Whether a narrow terminal must not break its cells.
    """

    key: str
    title: str
    digits: int | None = 1
    whole: bool = False

    def write(self, value: float) -> str:
        """Rounds a number of this column; what rounds to nothing has no sign."""
        return f"{value:.4g}" if self.digits is None else f"{value:z.{self.digits}f}"


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        cells: Column key -> value; a missing one is empty, and `None` a number that is not known.
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


def in_order(rows: Sequence[TableRow], key: str) -> tuple[TableRow, ...]:
    """Orders rows by score, counts the ranks of ours, and puts what has no score at the end.

    Ranks are for trials alone: a row of ours comes with a rank to fill in.

    Args:
        rows: Trials, and what stands among them by its value.
        key: The column that ranks; of a spread, its mean does.

    Returns:
        The rows in the order to show; equal ones keep theirs.
    """
    scores = [(_score(row, key), row) for row in rows]
    placed = sorted(((s, row) for s, row in scores if s is not None), key=lambda one: -one[0])
    found, rank = list[TableRow](), 0
    for _, row in placed:
        rank += "rank" in row.cells
        ranked = TableRow({**row.cells, "rank": float(rank)}, row.kind)
        found.append(ranked if "rank" in row.cells else row)
    return (*found, *(_unranked(row) for score, row in scores if score is None))


def _score(row: TableRow, key: str) -> float | None:
    value = row.cells.get(key)
    return value.mean if isinstance(value, Spread) else value if isinstance(value, float) else None


def _unranked(row: TableRow) -> TableRow:
    cells = {key: value for key, value in row.cells.items() if key != "rank"}
    return TableRow(cells, row.kind)


def written(column: Column, value: Cell) -> str:
    """Writes a cell as text, rounded as its column asks."""
    if isinstance(value, Spread):
        around = "" if value.deviation is None else f" ± {column.write(value.deviation)}"
        return column.write(value.mean) + around
    return value if isinstance(value, str) else "" if value is None else column.write(value)


def flat(cells: Mapping[str, Cell]) -> dict[str, str | float]:
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
