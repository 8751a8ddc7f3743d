"""One process at a time: a lock that says who holds it, and that nobody keeps by dying.

Beside every file that two commands might write at once: a run's folder, a prepared set's, a local
MLflow database while it is made. The kernel frees a lock with its process; where a file system does
not carry locks between machines, the holder's heartbeat stands in: one that has been silent for
long is taken over.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri

LOCK_FILE = ".lock"
BEAT_S = 30.0
SILENT_S = 300.0
_AGAIN_S = 0.1


@contextmanager
def only_one(path: Path, what: str, wait_s: float = 0) -> Iterator[None]:
    """Lets one process of all machines into the block.

    Args:
        path: The lock's file; its folder exists. It is gone when nobody holds it.
        what: What is locked, for the message: "this run".
        wait_s: How long to wait for a process that holds it.

    Raises:
        UserError: Another process holds it, still does after `wait_s`, and is named.
    """
    ends = time.monotonic() + wait_s
    while (file := _taken(path)) is None:
        if time.monotonic() >= ends:
            raise UserError(f"{path.parent}: {what} is {_holder(path)}.\nEnd it or wait for it.")
        time.sleep(_AGAIN_S)
    mine, over = _noted(path), threading.Event()
    beat = threading.Thread(target=_beat, args=(path, over), name="usseg-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        if _noted(path) == mine:  # and nobody took this process for dead
            path.unlink(missing_ok=True)
        file.close()


@contextmanager
def alone_in(place: str, what: str) -> Iterator[None]:
    """Lets one process write a folder, which is made; a URI's place is not locked.

    Raises:
        UserError: Another process has it.
    """
    if is_uri(place):
        yield
        return
    Path(place).mkdir(parents=True, exist_ok=True)
    with only_one(Path(place) / LOCK_FILE, what):
        yield


def _taken(path: Path) -> IO[str] | None:
    """Takes the lock and notes by whom; `None` where another process has it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except OSError:  # held, or removed by its holder a moment ago
        mine = False
    if not mine or _elsewhere(path):
        file.close()
        return None
    file.truncate(0)
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    file.write(json.dumps(holder))
    file.flush()
    return file


def _elsewhere(path: Path) -> bool:
    """Whether another machine's process shows signs of life, whose lock is not seen here."""
    host = _noted(path).get("host", socket.gethostname())
    return host != socket.gethostname() and time.time() - path.stat().st_mtime < SILENT_S


def _noted(path: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        noted = json.loads(path.read_text())
        if isinstance(noted, dict):
            return noted
    return {}


def _holder(path: Path) -> str:
    noted = _noted(path)
    with suppress(OSError):
        ago = f", last seen {max(0, time.time() - path.stat().st_mtime):.0f} s ago"
        return f"held by process {noted.get('pid', '?')} on {noted.get('host', '?')}{ago}"
    return "held by another process"


def _beat(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)
