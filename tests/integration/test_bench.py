"""The benchmarks run and say what they measured; how fast is no matter of a test."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.ray

KEYS = ("benchmark", "what", "value", "unit", "reference", "reference_value", "ratio")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "usseg_ray.bench", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def measures(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (result.returncode, result.stderr) == (0, "")
    tree = json.loads(result.stdout)
    found: list[dict[str, Any]] = tree["measures"]
    for measure in found:
        assert tuple(measure) == KEYS
        assert measure["ratio"] == pytest.approx(measure["value"] / measure["reference_value"])
        assert 0 < measure["value"] < float("inf")
    return found


def test_all_benchmarks_stand_beside_a_reference() -> None:
    found = measures(bench("--images", "700", "--json"))
    assert [(m["benchmark"], m["unit"]) for m in found] == [
        ("decode", "images/s"),
        ("prepare", "images/s"),
        ("prepare", "images/s"),
        ("stream", "rows/s"),
        ("stream", "s"),
        ("stream", "s"),
    ]
    assert [m["reference"].split(",")[0] for m in found] == [
        "Pillow",
        "decoding alone",
        "the bar",
        *["in this process"] * 3,
    ]


def test_one_alone() -> None:
    found = measures(bench("decode", "--images", "5", "--json"))
    assert [m["benchmark"] for m in found] == ["decode"]


def test_the_table_shows_every_figure_and_its_reference() -> None:
    result = bench("decode", "--images", "5")
    assert (result.returncode, result.stderr) == (0, "")
    assert "decode" in result.stdout
    assert "Pillow" in result.stdout
    assert result.stdout.count("images/s") == 2


def test_too_few_images_are_one_clear_line() -> None:
    result = bench("prepare", "--images", "4", "--json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--images 4: too few to time preparing" in result.stderr
