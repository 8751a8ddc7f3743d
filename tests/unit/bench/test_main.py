import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from usseg_ray.bench import suite
from usseg_ray.bench.__main__ import app
from usseg_ray.bench.gpu import has_gpu
from usseg_ray.bench.history import HISTORY
from usseg_ray.bench.meter import Measure
from usseg_ray.core.errors import UserError

BARS = [
    Measure("methods", "slow loss", 3.0, "CPU s", "a product", 2.0, 1.6),
    Measure("methods", "fast loss", 0.02, "CPU s", "the official form", 1.0, 1 / 25),
    Measure("methods", "small loss", 0.3, "GB", "at most, above inputs", 1.0, 1.0),
    Measure("methods", "aside", 0.5, "CPU s", "slow loss", 3.0),
]
MISSED = Measure("methods", "missed loss", 0.05, "CPU s", "the official form", 1.0, 1 / 25)
READING = Measure("features", "reading", 1500.0, "MB/s", "the bar", 2000.0, 1.0)
ALONE = Measure("crf", "exact", 20.0, "ms/image", "what is not installed", None)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Measure]:
    """What is measured, since measuring takes minutes; filled by the test."""
    found: list[Measure] = []

    def of(name: str, full: bool) -> Iterator[Measure]:
        return (one for one in found if one.benchmark == name)

    monkeypatch.setattr(suite, "has_gpu", lambda: True)
    for name in suite.BENCHMARKS:
        monkeypatch.setitem(suite.BENCHMARKS, name, partial(of, name))
    monkeypatch.setenv("USSEG_DATA", str(tmp_path))
    return found


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == code, result.output
    return result.stdout


def history(folder: Path) -> list[str]:
    return (folder / HISTORY).read_text().splitlines()


def test_bars_that_are_met_end_with_0(measured: list[Measure]) -> None:
    measured += BARS
    text = invoke("methods")
    assert text.count(" met ") == 3
    assert "missed" not in text
    assert text.splitlines()[-1] == "3 of 3 bars are met."


@pytest.mark.parametrize("bar", [MISSED, READING])
def test_a_missed_bar_ends_with_1_after_the_table(measured: list[Measure], bar: Measure) -> None:
    measured += [*BARS, bar]
    text = invoke(code=1)
    assert num_missed(text) == 1
    assert text.splitlines()[-1] == "3 of 4 bars are met."


def num_missed(text: str) -> int:
    return sum(line.rstrip().endswith("missed") for line in text.splitlines())


def test_json_is_the_line_of_the_history(measured: list[Measure], tmp_path: Path) -> None:
    measured += [*BARS, MISSED, ALONE]
    record = json.loads(invoke("methods", "--full", "--json", code=1))
    assert [json.loads(line) for line in history(tmp_path)] == [record]
    assert (record["what"], record["full"]) == ("methods", True)
    assert [one["what"] for one in record["measures"]] == [m.what for m in [*BARS, MISSED]]
    assert record["measures"][-1]["ratio"] == pytest.approx(0.05)
    assert record["measures"][-1]["passed"] is False


def test_all_is_every_benchmark_in_order(measured: list[Measure]) -> None:
    names = list(suite.BENCHMARKS)
    measured += [Measure(name, name, 1.0, "s", "one", 1.0) for name in reversed(names)]
    record = json.loads(invoke("--json"))
    assert [one["what"] for one in record["measures"]] == names
    assert names == ["io", "features", "methods", "sweep", "crf", "eval", "predict", "gpu"]


def test_all_leaves_out_a_gpu_that_is_not_there(
    measured: list[Measure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "has_gpu", lambda: False)
    measured += [Measure(name, name, 1.0, "s", "one", 1.0) for name in ("io", "gpu")]
    record = json.loads(invoke("--json"))
    assert [one["what"] for one in record["measures"]] == ["io"]


@pytest.mark.skipif(has_gpu(), reason="there is a GPU, which would be measured")
def test_a_gpu_that_is_not_there_is_one_line_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bench gpu: PyTorch sees no GPU here") as refused:
        CliRunner().invoke(app, ["gpu"], env={"USSEG_DATA": str(tmp_path)}, catch_exceptions=False)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_has_no_reference_stands_alone(measured: list[Measure]) -> None:
    measured += [ALONE]
    text = invoke("crf")
    assert "what is not installed" in text
    assert text.count("ms/image") == 1


def test_a_comparison_measures_nothing_and_marks_what_is_worse(
    measured: list[Measure], tmp_path: Path
) -> None:
    measured += [BARS[0]]
    invoke("methods")
    measured[:] = [Measure("methods", "slow loss", 3.6, "CPU s", "a product", 2.0, 1.6)]
    invoke("methods", code=1)
    text = invoke("--compare")
    assert "worse" in text
    (row,) = json.loads(invoke("methods", "--compare", "--json"))
    assert row["times_better"] == pytest.approx(3 / 3.6)
    assert row["worse"] is True
    assert len(history(tmp_path)) == 2


@pytest.mark.usefixtures("measured")
def test_a_comparison_takes_two_runs() -> None:
    with pytest.raises(UserError, match="0 runs of `bench io`"):
        CliRunner().invoke(app, ["io", "--compare"], catch_exceptions=False)
