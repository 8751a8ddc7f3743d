"""Ray's own processes under a command: when one is gone, the command ends like at Ctrl-C.

Ray itself notices after a quarter of a minute or a whole one, and then ends the process at once:
nothing is closed, and nobody is told the way on. Without its control service (`gcs_server`) much of
the closing has to wait for that too.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType
from typing import TypeVar

import psutil

from usseg_ray.core.cli import INTERRUPTED

RAYS = ("raylet", "gcs_server")
PERIOD_S = 0.5
_END_S = 5.0
PATIENCE_S = 25.0
"""Within it a block takes note that it is interrupted, or it waits for a Ray that is gone."""

_GONE = threading.Event()
"""Set when one of this process's own is gone, as it will stay."""

_LEFT: list[ExitStack] = []
"""What is not given back: dropped, it would be."""

_LAST_WORDS: list[Callable[[], object]] = []
"""What is done in place of a block that takes no note of anything any more."""

Held = TypeVar("Held")


@contextmanager
def watched(rays: Collection[psutil.Process], say: Callable[[str], object]) -> Iterator[None]:
    """Watches Ray's processes that this one started, for a `with` block in the main thread.

    Args:
        rays: All processes that came with this one's Ray.
        say: Takes the line about the one that is gone, before the interruption.

    Yields:
        Nothing; a `KeyboardInterrupt` ends the block when one is gone. If it cannot, since it waits
        within Ray for what is gone, the `last_words` are said and the process ends, as it would.
    """
    _GONE.clear()
    noticed, before = threading.Event(), signal.getsignal(signal.SIGINT)
    ours = [child for child in rays if _name(child) in RAYS]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD_S):
            gone = next((child for child in ours if not _lives(child)), None)
            if gone is not None and not over.is_set():
                _GONE.set()
                _have_tune_give_nothing_back()
                what = f"Ray's {names[gone.pid]} (process {gone.pid})"
                say(f"{what} was killed, or out of memory. A sweep goes on with --resume.")
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                if not noticed.wait(PATIENCE_S):
                    for call in _LAST_WORDS:
                        call()
                    abandon(rays)
                    _leave()
                return

    def note(number: int, frame: FrameType | None) -> None:
        noticed.set()
        if _GONE.is_set():  # also of a command in the background, which has no Ctrl-C
            raise KeyboardInterrupt
        if callable(before):
            before(number, frame)

    names = {child.pid: _name(child) for child in ours}
    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    # A handler that is not Python's own could not be put back.
    ours_to_set = threading.current_thread() is threading.main_thread() and before is not None
    if ours_to_set:
        signal.signal(signal.SIGINT, note)
    else:
        noticed.set()  # what else the process does goes on
    thread.start()
    try:
        yield
    finally:
        over.set()
        noticed.set()
        thread.join()
        if ours_to_set:
            signal.signal(signal.SIGINT, before)


@contextmanager
def last_words(call: Callable[[], object]) -> Iterator[None]:
    """Has something done, from another thread, if Ray is gone and the block cannot end any more."""
    _LAST_WORDS.append(call)
    try:
        yield
    finally:
        _LAST_WORDS.remove(call)


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


def _have_tune_give_nothing_back() -> None:
    """Has Ray Tune end without removing its placement groups, which would wait just the same."""
    if groups := sys.modules.get("ray.air.execution.resources.placement_group"):
        vars(groups)["remove_placement_group"] = lambda _: None


def is_gone() -> bool:
    """Tells whether one of Ray's processes that this one started was killed under it."""
    return _GONE.is_set()


def abandon(rays: Collection[psutil.Process]) -> None:
    """Ends what is left of a Ray of which a process is gone, in place of `ray.shutdown`.

    That one, like Ray's own way out of a process, asks a raylet that is gone, and then ends this
    process at once: without its last words, and with another exit code. So this one leaves before
    Ray's turn comes, as a command does that was interrupted.

    Args:
        rays: All processes that came with it; workers, which came later, end with their raylet.
    """
    atexit.register(_leave)
    for process in rays:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(rays, timeout=_END_S)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


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
