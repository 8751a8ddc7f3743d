import pytest

from usseg_ray.bench import suite
from usseg_ray.bench.meter import Measure

BARS = [
    Measure("methods", "slow loss", 3.0, "CPU s", "a product", 2.0, 1.6),
    Measure("methods", "fast loss", 0.02, "CPU s", "the official form", 1.0, 1 / 25),
    Measure("methods", "small loss", 0.3, "GB", "at most, above inputs", 1.0, 1.0),
    Measure("methods", "aside", 0.5, "CPU s", "slow loss", 3.0),
]


READING = Measure("features", "reading", 1500.0, "MB/s", "the bar", 2000.0, 1.0)


@pytest.mark.parametrize(
    ("bar", "ratio", "limit"),
    [
        (BARS[0], "1.5x", "1.6x"),
        (BARS[1], "50x less", "25x less"),
        (BARS[3], "16.7 %", ""),
        (READING, "0.75x", "1x"),
    ],
)
def test_the_table_says_how_much_less(bar: Measure, ratio: str, limit: str) -> None:
    columns = [list(column.cells) for column in suite.bar_table([bar]).columns]
    assert [column[0] for column in columns[2:4]] == [ratio, limit]


def test_the_verdict_counts_bars_alone() -> None:
    assert suite.verdict([*BARS, READING]) == "3 of 4 bars are met."
