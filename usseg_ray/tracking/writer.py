"""The thread that carries a sweep's operations from its spool to the store.

It alone waits for the store: what it cannot deliver it tries again until the store answers, and
says once that the store is away and once that it is back; the same of a folder that is full. What a
store that does answer refuses again and again is given up with a message, so that it does not hold
up the rest.
"""

import threading
import time
from collections.abc import Callable

from mlflow.exceptions import MlflowException

from usseg_ray.tracking.heartbeat import BEAT_S, SILENT
from usseg_ray.tracking.runs import Runs
from usseg_ray.tracking.spool import Operation, Spool
from usseg_ray.tracking.store import cause

_BUSY = "TEMPORARILY_UNAVAILABLE"
Say = Callable[[str], None]

_BATCH = 200  # operations between two moves of the mark
_TRIES = 4
_LONGEST_PAUSE_S = 5.0
_SILENCE_S = 3.0  # how long an end may take before it is explained
_LONGEST_END_S = 600.0


class Writer:
    """Delivers a spool; a daemon thread.

    Args:
        spool: What waits.
        runs: The runs in the store.
        store: Name of the store in messages.
        say: Takes a message for the user.
    """

    def __init__(self, spool: Spool, runs: Runs, store: str, say: Say) -> None:
        self._spool = spool
        self._runs = runs
        self._store = store
        self._say = say
        self._away = self._closing = self._full = False
        self._tries, self._careful, self._pause = 0, 0, 0.0
        self._last_success = self._last_beat = time.monotonic()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="usseg-tracking", daemon=True)

    def start(self) -> None:
        """Begins with what waits already."""
        self._thread.start()

    def put(self, operation: Operation) -> None:
        """Takes an operation; returns when it is in the file."""
        self._spool.append(operation)
        self._wake.set()

    def finish(self, patience: float) -> int:
        """Delivers the rest and ends the thread.

        Args:
            patience: Seconds to go on trying where the store does not answer.

        Returns:
            How many operations could not be delivered; they stay in the file.
        """
        self._closing = True
        self._wake.set()
        start = answered = time.monotonic()
        told = False
        while self._thread.is_alive():
            self._thread.join(0.1)
            now = time.monotonic()
            answered = answered if self._pause else now
            if not told and now - start > _SILENCE_S:
                self._say(f"Writing the last {len(self._spool)} records to {self._store} ...")
                told = True
            if now - answered > patience or now - start > _LONGEST_END_S:
                self._stop.set()
                self._thread.join(1)
                break
        left = len(self._spool)
        self._spool.close()
        return left

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                if self._delivered():
                    return
            except Exception:  # noqa: BLE001 (a screen or a folder that is gone ends no thread)
                self._wait()

    def _delivered(self) -> bool:
        """Takes what waits to the store; says whether all is done."""
        self._wake.clear()
        closing = self._closing
        operations, position = self._spool.waiting(1 if self._careful else _BATCH)
        self._tell_room()
        if closing and not operations:
            return True
        try:
            self._show_life()
            self._runs.apply(operations)
        except Exception as error:  # noqa: BLE001 (whatever it is, the sweep outlives it)
            self._failed(error, operations, position)
            return False
        if self._stop.is_set():
            return True  # `finish` has given up meanwhile, and the spool is a later life's
        self._succeeded(position)
        if not operations:
            self._wake.wait(max(0.0, self._last_beat + BEAT_S - time.monotonic()))
        return False

    def _tell_room(self) -> None:
        """Says once that the sweep's folder is full, and once that it is not any more."""
        left = self._spool.unwritten
        if left and not self._full:
            self._say(
                f"{self._spool.path.parent}: no room for records of the sweep (disk full?). They "
                f"wait in memory, {left} by now, and go on to {self._store}: make room."
            )
        elif self._full and not left:
            self._say(f"{self._spool.path.parent}: there is room again; no record is missing.")
        self._full = left > 0

    def _show_life(self) -> None:
        now = time.monotonic()
        if self._away or now - self._last_success > SILENT.total_seconds():
            # Others may have taken this process for dead.
            self._runs.probe()
            self._runs.revive()
        if now - self._last_beat >= BEAT_S:
            self._last_beat = now
            self._runs.beat()

    def _succeeded(self, position: int) -> None:
        self._spool.advance(position)
        self._tries, self._careful, self._pause = 0, max(0, self._careful - 1), 0.0
        self._last_success = time.monotonic()
        if self._away:
            self._away = False
            left = len(self._spool)
            self._say(f"Tracking store {self._store} is back; {left} records follow.")

    def _failed(self, error: Exception, operations: list[Operation], position: int) -> None:
        """Tells a store that is away from one that refuses, and waits or gives up."""
        self._runs.forget()
        if not self._answers(error) or not operations:
            return self._wait()
        self._tries += 1
        if len(operations) > 1:
            # It may have come back in between; if not, one by one finds what is refused.
            if self._tries > 1:
                self._careful, self._tries = len(operations), 0
            return self._wait()
        busy = isinstance(error, MlflowException) and error.error_code == _BUSY
        hopeless = self._tries >= _TRIES or isinstance(error, FileNotFoundError)
        if hopeless and not busy:
            what = f"{operations[0].kind!r} of {operations[0].run or 'the sweep'}"
            self._say(f"Tracking store {self._store} refuses {what}: {cause(error)}")
            return self._succeeded(position)
        return self._wait()

    def _answers(self, error: Exception) -> bool:
        try:
            self._runs.probe()
        except Exception:  # noqa: BLE001 (whatever it is, it is no answer)
            if not self._away:
                self._away = True
                self._say(
                    f"Tracking store {self._store} does not answer ({cause(error)}). The sweep "
                    f"goes on; its records wait in {self._spool.path}."
                )
            return False
        return True

    def _wait(self) -> None:
        self._pause = min(_LONGEST_PAUSE_S, 2 * self._pause or 0.25)
        self._stop.wait(self._pause)
