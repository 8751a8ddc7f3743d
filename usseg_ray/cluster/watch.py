"""Ray's own processes under a command: when one is gone, the command ends like at Ctrl-C.

Ray itself notices after a quarter of a minute or a whole one, and then ends the process at once:
nothing is closed, and nobody is told the way on. Without its control service (`gcs_server`) much of
the closing has to wait for that too.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import psutil

RAYS = ("raylet", "gcs_server")
PERIOD_S = 0.5

_GONE = threading.Event()
"""Set when one of this process's own is gone, as it will stay."""

_LEFT: list[ExitStack] = []
"""What is not given back: dropped, it would be."""

Held = TypeVar("Held")


@contextmanager
def watched(say: Callable[[str], object]) -> Iterator[None]:
    """Watches Ray's processes that this one started, for a `with` block in the main thread.

    Args:
        say: Takes the line about the one that is gone, before the interruption.

    Yields:
        Nothing; a `KeyboardInterrupt` ends the block when one is gone.
    """
    _GONE.clear()
    ours = [child for child in psutil.Process().children() if _name(child) in RAYS]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD_S):
            gone = next((child for child in ours if not _lives(child)), None)
            if gone is not None and not over.is_set():
                _GONE.set()
                what = f"Ray's {names[gone.pid]} (process {gone.pid})"
                say(f"{what} was killed, or out of memory. A sweep goes on with --resume.")
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    names = {child.pid: _name(child) for child in ours}
    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def while_ray_lives(held: AbstractContextManager[Held]) -> Iterator[Held]:
    """Holds something of Ray's, and does not give it back to one that is gone.

    Ray would wait for its control service for a minute, and then end the process.
    """
    with ExitStack() as stack:
        value = stack.enter_context(held)
        try:
            yield value
        finally:
            if _GONE.is_set():
                _LEFT.append(stack.pop_all())


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
