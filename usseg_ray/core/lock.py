"""One process at a time: a lock that says who holds it, and that nobody keeps by dying.

Beside every file that two commands might write at once: a run's folder, a prepared set's, a local
MLflow database while it is made. The kernel frees a lock with its process; where a file system does
not carry locks between machines, and at a URI, the holder's heartbeat stands in: one that has been
silent for long is taken over.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line, is_uri, resolve, write_whole_at

if TYPE_CHECKING:
    from pyarrow import fs as pafs

LOCK_FILE = ".lock"
BEAT_S = 30.0
SILENT_S = 300.0
_AGAIN_S = 0.1
_SETTLED_S = 1.0
"""At a URI: after which nobody who claimed it at the same moment writes any more."""


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
    _begin_to_beat(lambda: os.utime(path), over)
    try:
        yield
    finally:
        over.set()
        if _noted(path) == mine:  # and nobody took this process for dead
            path.unlink(missing_ok=True)
        file.close()


@contextmanager
def alone_in(place: str, what: str) -> Iterator[None]:
    """Lets one process write a folder, which is made, or the place of a URI.

    Raises:
        UserError: Another process has it, or the URI cannot be written.
    """
    if is_uri(place):
        with _alone_at(place, what):
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
    with suppress(OSError):
        return _parsed(path.read_bytes())
    return {}


def _parsed(content: bytes) -> dict[str, object]:
    with suppress(ValueError):
        noted = json.loads(content)
        if isinstance(noted, dict):
            return noted
    return {}


def _holder(path: Path) -> str:
    noted = _noted(path)
    with suppress(OSError):
        ago = f", last seen {max(0, time.time() - path.stat().st_mtime):.0f} s ago"
        return f"held by process {noted.get('pid', '?')} on {noted.get('host', '?')}{ago}"
    return "held by another process"


def _begin_to_beat(beat: Callable[[], None], over: threading.Event) -> threading.Thread:
    def work() -> None:
        while not over.wait(BEAT_S):
            with suppress(OSError):  # one may be missed
                beat()

    thread = threading.Thread(target=work, name="usseg-lock", daemon=True)
    thread.start()
    return thread


@contextmanager
def _alone_at(uri: str, what: str) -> Iterator[None]:
    filesystem, root = resolve(uri)
    path, over = f"{root}/{LOCK_FILE}", threading.Event()
    mine = json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "key": uuid.uuid4().hex}
    ).encode()
    try:
        held = _holder_at(filesystem, path)
        if not held:
            write_whole_at(filesystem, path, mine)
            time.sleep(_SETTLED_S)
            held = "" if _content(filesystem, path) == mine else _holder_at(filesystem, path)
    except OSError as error:
        raise UserError(f"{uri}: cannot be written ({first_line(error)}).") from None
    if held:
        raise UserError(f"{uri}: {what} is {held}.\nEnd it or wait for it.")
    beat = _begin_to_beat(lambda: write_whole_at(filesystem, path, mine), over)
    try:
        yield
    finally:
        over.set()
        beat.join()
        with suppress(OSError):
            if _content(filesystem, path) == mine:  # and nobody took this process for dead
                filesystem.delete_file(path)


def _content(filesystem: "pafs.FileSystem", path: str) -> bytes:
    try:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return b""


def _holder_at(filesystem: "pafs.FileSystem", path: str) -> str:
    """Words who holds a URI; empty where nobody does who shows life."""
    noted = _parsed(_content(filesystem, path))
    if not noted:
        return ""
    ago = max(0, time.time() - filesystem.get_file_info(path).mtime.timestamp())
    host, pid = noted.get("host"), noted.get("pid")
    dead = host == socket.gethostname() and not (isinstance(pid, int) and psutil.pid_exists(pid))
    if dead or ago > SILENT_S:
        return ""
    return f"held by process {pid} on {host}, last seen {ago:.0f} s ago"
