"""Ray's own processes under a command: told when they are gone, and only then."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from usseg_ray.cluster.watch import PERIOD_S, watched


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process by that name."""
    shutil.copy(str(shutil.which("sleep")), tmp_path / "raylet")
    process = subprocess.Popen([str(tmp_path / "raylet"), "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_that_is_killed_interrupts_and_is_named(
    raylet: subprocess.Popen[bytes],
) -> None:
    said: list[str] = []
    with watched(said.append):
        raylet.kill()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20 * PERIOD_S)
    (line,) = said
    assert f"Ray's raylet (process {raylet.pid}) was killed" in line
    assert "--resume" in line


def test_one_that_lives_or_ends_afterwards_is_no_matter(raylet: subprocess.Popen[bytes]) -> None:
    said: list[str] = []
    with watched(said.append):
        time.sleep(2 * PERIOD_S)
    raylet.kill()
    time.sleep(2 * PERIOD_S)
    assert not said
