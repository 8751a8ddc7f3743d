"""One process at a time: the second is told of the first, and a dead one keeps nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from usseg_ray.core import lock
from usseg_ray.core.errors import UserError
from usseg_ray.core.lock import SILENT_S, only_one

HOLD = """
import sys, time
from pathlib import Path
from usseg_ray.core.lock import only_one

with only_one(Path(sys.argv[1]), "this run"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_of_the_first(tmp_path: Path) -> None:
    first = holder(tmp_path / ".lock", 60)
    try:
        who = rf"this run is held by process {first.pid} on {socket.gethostname()}, last seen \d+ s"
        with pytest.raises(UserError, match=who), only_one(tmp_path / ".lock", "this run"):
            pytest.fail("two at a time")
    finally:
        first.kill()
        first.communicate()


def test_a_killed_holder_keeps_nothing(tmp_path: Path) -> None:
    first = holder(tmp_path / ".lock", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (tmp_path / ".lock").exists()
    with only_one(tmp_path / ".lock", "this run"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_comes_next(tmp_path: Path) -> None:
    first = holder(tmp_path / ".lock", 0.5)
    with only_one(tmp_path / ".lock", "the store", wait_s=30):
        pass
    assert first.wait(10) == 0
    first.communicate()


def test_an_error_in_the_block_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), only_one(tmp_path / ".lock", "this run"):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("silence", "refused"), [(1.0, True), (SILENT_S + 1, False)])
def test_another_machine_is_believed_while_it_shows_life(
    tmp_path: Path, silence: float, refused: bool
) -> None:
    path = tmp_path / ".lock"
    path.write_text('{"host": "elsewhere", "pid": 7}')
    os.utime(path, (time.time() - silence,) * 2)
    if refused:
        with (
            pytest.raises(UserError, match="process 7 on elsewhere, last seen 1 s ago"),
            only_one(path, "this run"),
        ):
            pytest.fail("two at a time")
    else:
        with only_one(path, "this run"):
            assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_a_holder_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    path = tmp_path / ".lock"
    with only_one(path, "this run"):
        os.utime(path, (0, 0))
        ends = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < ends:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize("text", ["", "null", "[1]", "{"])
def test_a_damaged_note_of_a_dead_holder_stops_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    with only_one(tmp_path / ".lock", "this run"):
        pass
