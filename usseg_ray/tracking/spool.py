"""What the tracking store has not taken yet: an append-only file in the sweep's folder.

`tracking.ledger.Ledger` appends operations, `tracking.writer.Writer` carries them to the store and
then moves a mark behind them. So the sweep waits for no store, and what a killed process or a store
that stayed away left behind, a later life of the sweep finds. Since the mark moves after the store
answered, an operation may be carried twice: all of them are such that twice is once. A folder that
is full ends nothing either: what does not fit waits in memory, in its turn, until there is room.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from usseg_ray.core.errors import UserError, redacted
from usseg_ray.core.files import write_whole

SPOOL_FILE, MARK_FILE = "tracking.jsonl", "tracking.mark"

RecordKind = Literal[
    "store", "open", "log", "floors", "tags", "files", "table", "model", "end", "close"
]


@dataclass(frozen=True)
class Operation:
    """One thing to write to the store.

    Attributes:
        kind: What to do; `tracking.runs.Runs` says with which data. `store` is the file's header.
        run: Name of the run; `None` for the sweep's own.
        time: When it happened, Unix milliseconds.
        data: What the kind needs, as plain JSON; not-a-number and infinite values are allowed.
    """

    kind: RecordKind
    run: str | None
    time: int
    data: dict[str, Any] = field(default_factory=dict)


class Spool:
    """The operations of one sweep that wait for its store, in order.

    Args:
        folder: The sweep's folder; the files are created in it, and gone when nothing waits.

    Raises:
        UserError: Another process writes this sweep, or its file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / SPOOL_FILE
        self._mark = folder / MARK_FILE
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        self._unwritten: list[bytes] = []
        self._size = self._done = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(
                f"{folder}: another process is writing this sweep's runs.\n"
                "Wait until it has ended, or end it."
            ) from None
        self._mend()

    def append(self, operation: Operation) -> None:
        """Adds an operation behind the others; it survives the end of the process if it fits."""
        line = json.dumps(asdict(operation)).encode() + b"\n"
        with self._lock:
            self._unwritten.append(line)
            self._write()

    @property
    def unwritten(self) -> int:
        """Counts the operations that the folder has no room for."""
        return len(self._unwritten)

    def waiting(self, most: int) -> tuple[list[Operation], int]:
        """Reads the first operations that wait.

        Args:
            most: How many at most.

        Returns:
            The operations, and the position behind them for `advance`.
        """
        with self._lock:
            self._write()
            lines = list(islice(self._lines(), most))
            return [_parsed(line) for line in lines], self._done + sum(map(len, lines))

    def advance(self, position: int) -> None:
        """Notes that the store has everything before a position.

        A mark that the folder has no room for is only remembered: a later life would carry those
        operations again.
        """
        with self._lock:
            beyond = position - self._size
            self._done = min(position, self._size)
            while beyond > 0:
                beyond -= len(self._unwritten.pop(0))
            with suppress(OSError):
                # Should the machine stop now, the mark must not point behind what was kept.
                os.fsync(self._file)
                write_whole(self._mark, str(self._done))

    def __len__(self) -> int:
        """Counts the operations that wait."""
        with self._lock:
            return sum(1 for _ in self._lines())

    def _lines(self) -> Iterator[bytes]:
        """Yields what waits, in order: what is in the file, then what is not."""
        with self.path.open("rb") as file:
            file.seek(self._done)
            yield from file
        yield from self._unwritten

    def _write(self) -> None:
        """Writes what it can of what is not in the file, whole lines alone."""
        try:
            while self._unwritten:
                rest = memoryview(self._unwritten[0])
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._size += len(self._unwritten.pop(0))
        except OSError:
            os.truncate(self.path, self._size)

    def address(self) -> str:
        """Reads the address of the store from the file's first line; empty if it has none."""
        with self.path.open("rb") as file:
            line = file.readline()
        return str(_parsed(line).data.get("uri", "")) if line else ""

    def check_store(self, uri: str) -> None:
        """Keeps what waits from being carried to another store than the one that it is for.

        Args:
            uri: Address of the store that it would go to.

        Raises:
            UserError: It is for another one.
        """
        used, left = self.address(), len(self)
        if left and used not in ("", redacted(uri)):
            raise UserError(
                f"{self.path}: {left} records wait for the tracking store {used}, and this is "
                f"{redacted(uri)}.\nSet MLFLOW_TRACKING_URI to that one, or run this in the folder "
                f"where the sweep began; to go on without them, delete the file and {MARK_FILE}."
            )

    def close(self) -> None:
        """Lets go of the files, and removes them if nothing waits; a second call is idle."""
        if self._file.closed:
            return
        if not len(self):
            self._mark.unlink(missing_ok=True)
            self.path.unlink()
        self._file.close()

    def _mend(self) -> None:
        """Drops a line that was broken off, and finds the mark."""
        text = self.path.read_bytes()
        self._size = text.rfind(b"\n") + 1
        if self._size < len(text):
            os.truncate(self.path, self._size)
        self._done = self._marked(text)
        if self._done == self._size:
            # A later life may have another store, which is named in the first line.
            self._mark.unlink(missing_ok=True)
            os.truncate(self.path, 0)
            self._size = self._done = 0
        try:
            self.waiting(self._size)
            self.address()
        except (ValueError, TypeError, KeyError):
            self._file.close()
            raise UserError(
                f"{self.path} is damaged, and what waits in it cannot be read.\n"
                f"Delete it and {MARK_FILE} beside it to go on without."
            ) from None

    def _marked(self, text: bytes) -> int:
        """Reads the mark; one that is not behind a line of the file counts for nothing."""
        try:
            mark = int(self._mark.read_text())
        except (OSError, ValueError):
            return 0
        return mark if 0 < mark <= self._size and text[mark - 1 : mark] == b"\n" else 0


def _parsed(line: bytes) -> Operation:
    return Operation(**json.loads(line))
