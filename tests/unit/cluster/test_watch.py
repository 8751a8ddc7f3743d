"""Ray's own processes under a command: told when they are gone, and only then."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from usseg_ray.cluster.watch import PERIOD_S, watched, while_ray_lives
from usseg_ray.core.cli import INTERRUPTED


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process by that name."""
    shutil.copy(str(shutil.which("sleep")), tmp_path / "raylet")
    process = subprocess.Popen([str(tmp_path / "raylet"), "60"])
    yield process
    process.kill()
    process.wait()


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def handler(request: pytest.FixtureRequest) -> Iterator[object]:
    """What an interruption does; a command that a script starts with `&` ignores it."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_a_process_that_is_killed_interrupts_and_is_named(
    raylet: subprocess.Popen[bytes], handler: object
) -> None:
    said: list[str] = []
    with watched(children(), said.append):
        raylet.kill()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20 * PERIOD_S)
    (line,) = said
    assert f"Ray's raylet (process {raylet.pid}) was killed" in line
    assert "--resume" in line
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_ray_holds_that_is_gone_is_not_given_back(
    raylet: subprocess.Popen[bytes], killed: bool
) -> None:
    given_back: list[str] = []

    @contextmanager
    def held() -> Iterator[str]:
        try:
            yield "held"
        finally:
            given_back.append("held")

    with (
        suppress(KeyboardInterrupt),
        watched(children(), given_back.append),
        while_ray_lives(held()) as value,
    ):
        assert value == "held"
        if killed:
            raylet.kill()
            time.sleep(20 * PERIOD_S)
    assert ("held" in given_back) is not killed


@pytest.mark.usefixtures("raylet")
def test_a_block_that_waits_within_ray_says_its_last_words_and_ends(tmp_path: Path) -> None:
    # A wait that no signal breaks off, as in Ray's own code.
    program = (
        "import ctypes, psutil, signal, subprocess\n"
        "from usseg_ray.cluster import watch\n"
        "watch.PATIENCE_S = 0.5\n"
        f"ray = subprocess.Popen([{str(tmp_path / 'raylet')!r}, '60'])\n"
        "rays = [psutil.Process(ray.pid)]\n"
        "with watch.watched(rays, print), watch.last_words(lambda: print('closed')):\n"
        "    ray.kill()\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "    ctypes.CDLL(None).sleep(20)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert ended.returncode == INTERRUPTED
    assert ended.stdout.splitlines()[-1] == "closed"


def test_what_is_left_of_a_ray_is_ended(raylet: subprocess.Popen[bytes]) -> None:
    program = (
        "import atexit, os, psutil, sys\n"
        "atexit.register(os._exit, 1)  # as Ray does\n"
        "from usseg_ray.cluster.watch import abandon\n"
        f"abandon([psutil.Process({raylet.pid})])\n"
        "print('To go on: ...')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, text=True
    )
    assert (ended.stdout, ended.returncode) == ("To go on: ...\n", INTERRUPTED)
    assert raylet.wait(10) == -signal.SIGTERM


def test_one_that_lives_or_ends_afterwards_is_no_matter(raylet: subprocess.Popen[bytes]) -> None:
    said: list[str] = []
    with watched(children(), said.append):
        time.sleep(2 * PERIOD_S)
    raylet.kill()
    time.sleep(2 * PERIOD_S)
    assert not said
