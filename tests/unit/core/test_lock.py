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
from usseg_ray.core.lock import LOCK_FILE, SILENT_S, alone_in, only_one

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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lock, "_SETTLED_S", 0.05)
    return f"file://{tmp_path}/there"


def test_the_place_of_a_uri_has_one_process_too(place: str, tmp_path: Path) -> None:
    code = HOLD.replace("only_one(Path(sys.argv[1])", "alone_in(sys.argv[1]")
    code = code.replace("import only_one", "import alone_in")
    arguments = [sys.executable, "-c", code, place, "60"]
    first = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        who = rf"this run is held by process {first.pid} on {socket.gethostname()}, last seen \d+ s"
        with pytest.raises(UserError, match=who), alone_in(place, "this run"):
            pytest.fail("two at a time")
    finally:
        first.kill()
        first.communicate()
    with alone_in(place, "this run"):
        assert json.loads((tmp_path / "there" / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(("silence", "refused"), [(1.0, True), (SILENT_S + 1, False)])
def test_at_a_uri_another_machine_is_believed_while_it_shows_life(
    place: str, tmp_path: Path, silence: float, refused: bool
) -> None:
    path = tmp_path / "there" / LOCK_FILE
    path.parent.mkdir()
    path.write_text('{"host": "elsewhere", "pid": 7}')
    os.utime(path, (time.time() - silence,) * 2)
    if refused:
        with (
            pytest.raises(UserError, match="process 7 on elsewhere"),
            alone_in(place, "this run"),
        ):
            pytest.fail("two at a time")
    else:
        with alone_in(place, "this run"):
            pass
        assert not path.exists()


def test_who_claims_a_uri_last_has_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there" / LOCK_FILE
    other = '{"host": "elsewhere", "pid": 7}'
    monkeypatch.setattr(time, "sleep", lambda _: path.write_text(other))
    with pytest.raises(UserError, match="process 7 on elsewhere"), alone_in(place, "this run"):
        pytest.fail("two at a time")
    assert path.read_text() == other


def test_a_uri_keeps_its_lock_alive(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    path = tmp_path / "there" / LOCK_FILE
    with alone_in(place, "this run"):
        os.utime(path, (0, 0))
        ends = time.monotonic() + 30
        while path.stat().st_mtime < 1 and time.monotonic() < ends:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1


def test_a_uri_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = f"file://{tmp_path}/file/below"
    with pytest.raises(UserError, match="cannot be written"), alone_in(place, "this run"):
        pytest.fail("written")
