"""The CRF's benchmark measures both refiners, or says that there is one; how fast is no matter."""

import importlib.util
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from usseg_ray import bench, lattice_crf
from usseg_ray.bench_crf import CrfFigures, bench_crf, crf_table, make_case
from usseg_ray.lattice_crf import usable_cpus

BOTH = CrfFigures(320, 27, 2, 18_000.0, 2, 450.0, 98.765, 81.0)


def shown(figures: CrfFigures) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(crf_table(figures))
    return capture.get()


def test_both_refiners_are_measured() -> None:
    pytest.importorskip("pydensecrf", reason="pydensecrf2 was not built")
    figures = bench_crf(side=48, classes=11)
    assert (figures.side, figures.classes, figures.processes) == (48, 11, usable_cpus())
    assert figures.exact > 0
    assert figures.lattice is not None
    assert figures.lattice > 0
    assert figures.same is not None
    assert figures.unchanged is not None
    assert 90 < figures.same <= 100
    assert figures.unchanged < figures.same


def test_without_the_package_ours_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        lattice_crf, "find_spec", lambda name: None if name == "pydensecrf" else find(name)
    )
    figures = bench_crf(side=24, classes=10)
    assert (figures.processes, figures.lattice, figures.same) == (0, None, None)
    assert figures.exact > 0
    table = shown(figures)
    assert "pydensecrf2 is not installed" in table
    assert table.count("ms/image") == 1


def test_the_table_shows_both_and_their_agreement() -> None:
    table = shown(BOTH)
    for figure in ("18000 ms/image", "450 ms/image", "40.0", "98.77 %", "81.00 %", "2 processes"):
        assert figure in table


def test_the_picture_has_colours_and_the_unaries_all_classes() -> None:
    log_probs, pixels = make_case(64, 12)
    assert log_probs.shape == (1, 12, 64, 64)
    assert pixels.shape == (1, 3, 64, 64)
    assert len(log_probs.argmax(1).unique()) >= 3
    assert pixels.flatten(2).float().std(2).min() > 5


def test_the_command_prints_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "bench_crf", lambda: BOTH)
    result = CliRunner().invoke(bench.app, ["crf", "--json"])
    assert result.exit_code == 0
    assert CrfFigures(**json.loads(result.stdout)) == BOTH
    assert "450 ms/image" in CliRunner().invoke(bench.app, ["crf"]).stdout
