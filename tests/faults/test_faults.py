"""One try of each light fault; the matrix of all, ten tries each, is `python -m tests.faults`."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.conftest import PROJECT
from tests.faults import kinds
from tests.faults.matrix import BEGIN, END, FAULTS, PAGE, TRIES, load_rows, table
from usseg_ray.core.files import UNFINISHED

LIGHT = [name for name in FAULTS if FAULTS[name].attempt.__module__ in kinds.LIGHT]
HEAVY = ["driver-killed", "disk-full", "store-killed", "rank-killed"]


@pytest.mark.parametrize("name", LIGHT)
def test_what_is_finished_survives(name: str, tmp_path: Path) -> None:
    found = FAULTS[name].attempt(Random(f"{name} 0"), tmp_path)
    assert (found.lost, found.twice) == ([], [])
    assert not list(tmp_path.rglob(f".*{UNFINISHED}"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.lengthy
def test_a_sweep_survives() -> None:
    command = [sys.executable, "-m", "tests.faults", *HEAVY, "--tries", "1", "--forget"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_docs_show_what_was_tried() -> None:
    rows = load_rows()
    tries = [(row.fault, row.seed) for row in rows]
    assert len(tries) == len(set(tries))
    assert {fault for fault, _ in tries} <= set(FAULTS)
    assert {seed for _, seed in tries} <= set(range(TRIES))
    shown = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == f"\n{table(rows)}"
