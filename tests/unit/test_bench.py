import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from usseg_ray import bench
from usseg_ray.bench_meter import Bar
from usseg_ray.config import UserError

BARS = [
    Bar("methods", "slow loss", 3.0, "CPU s", "a product", 2.0, 1.6),
    Bar("methods", "fast loss", 0.02, "CPU s", "the official form", 1.0, 1 / 25),
    Bar("methods", "small loss", 0.3, "GB", "at most, above inputs", 1.0, 1.0),
    Bar("methods", "aside", 0.5, "CPU s", "slow loss", 3.0, None),
]
MISSED = Bar("methods", "missed loss", 0.05, "CPU s", "the official form", 1.0, 1 / 25)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """The bars that are measured, since measuring them takes minutes; filled by the test."""
    bars: list[Bar] = []

    def measure(*_: object, full: bool) -> Iterator[Bar]:
        return iter(bars)

    monkeypatch.setattr(bench, "method_bars", measure)
    return bars


def test_bars_that_are_met_end_with_0(measured: list[Bar]) -> None:
    measured += BARS
    result = CliRunner().invoke(bench.app, ["methods"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert result.stdout.count(" met ") == 3
    assert "missed" not in result.stdout


def test_a_missed_bar_ends_with_1_after_the_table(measured: list[Bar]) -> None:
    measured += [*BARS, MISSED]
    result = CliRunner().invoke(bench.app, ["methods"])
    assert result.exit_code == 1
    assert "20x less" in result.stdout
    assert "missed" in result.stdout


def test_a_missed_bar_ends_with_1_after_json_too(measured: list[Bar]) -> None:
    measured += [MISSED]
    result = CliRunner().invoke(bench.app, ["methods", "--full", "--json"])
    assert result.exit_code == 1
    tree = json.loads(result.stdout)
    assert tree["full"] is True
    assert tree["measures"][0]["ratio"] == pytest.approx(0.05)
    assert tree["measures"][0]["limit"] == 1 / 25


@pytest.mark.parametrize(
    ("bar", "ratio", "limit"),
    [(BARS[0], "1.5x", "1.6x"), (BARS[1], "50x less", "25x less"), (BARS[3], "6x less", "")],
)
def test_the_table_says_how_much_less(bar: Bar, ratio: str, limit: str) -> None:
    columns = [list(column.cells) for column in bench._bar_table([bar], "title").columns]
    assert [column[0] for column in columns[2:4]] == [ratio, limit]


def test_full_belongs_to_methods() -> None:
    with pytest.raises(UserError, match="bench methods --full"):
        CliRunner().invoke(bench.app, ["decode", "--full"], catch_exceptions=False)
