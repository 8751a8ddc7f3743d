"""The faults, what came of every try, and the table of them in the docs."""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from statistics import median
from tempfile import mkdtemp

import pytest

from tests.conftest import PROJECT
from tests.faults.checks import Leftovers
from usseg_ray.core.files import write_whole

RESULTS = Path(__file__).with_name("results.json")
PAGE = PROJECT / "docs" / "reliability.md"
BEGIN, END = "<!-- fault matrix: python -m tests.faults -->", "<!-- end of the fault matrix -->"
TRIES = 10
HELD = "held"


@dataclass
class Found:
    """What a fault did.

    Attributes:
        lost: Finished work that was done again, or is gone.
        twice: What is there twice.
        recovery_s: From the fault until something new was achieved, if that was watched.
    """

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    recovery_s: float | None = None


@dataclass(frozen=True)
class Row:
    """One try; `outcome` says that all held, or what did not."""

    fault: str
    seed: int
    outcome: str
    lost: int
    twice: int
    recovery_s: float | None
    left: int
    commit: str
    date: str


Attempt = Callable[[Random, Path], Found]
Within = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Fault:
    """Something that may happen.

    Attributes:
        name: For the command line.
        what: For the table: what happens, and what must come of it.
        attempt: Makes it happen, at what a seed draws, in an empty folder; raises where something
            else comes of it.
        within: Holds what its tries share.
    """

    name: str
    what: str
    attempt: Attempt
    within: Within


FAULTS: dict[str, Fault] = {}


def fault(name: str, what: str, *, within: Within = nullcontext) -> Callable[[Attempt], Attempt]:
    """Registers a fault."""

    def register(attempt: Attempt) -> Attempt:
        FAULTS[name] = Fault(name, what, attempt, within)
        return attempt

    return register


def attempted(fault: Fault, seed: int) -> Row:
    """Tries a fault once."""
    found, outcome = Found(), HELD
    root = Path(mkdtemp(prefix="fault"))
    before = Leftovers(root)
    try:
        found = fault.attempt(Random(f"{fault.name} {seed}"), root)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 (the table says it)
        outcome = " ".join(f"{type(error).__name__}: {error}".split())[:600]
    left = before.found()
    shutil.rmtree(root)
    for what, names in (("lost", found.lost), ("twice", found.twice), ("left", left)):
        if names and outcome == HELD:
            outcome = f"{what}: {', '.join(names)}"[:600]
    recovery = None if found.recovery_s is None else round(found.recovery_s, 3)
    counts = len(found.lost), len(found.twice), len(left)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    return Row(
        fault.name, seed, outcome, counts[0], counts[1], recovery, counts[2], _commit(), date
    )


@cache
def _commit() -> str:
    command = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def load_rows() -> list[Row]:
    return [Row(**row) for row in json.loads(RESULTS.read_text())] if RESULTS.exists() else []


def keep(row: Row) -> None:
    """Adds a row, in place of an earlier one of the same try, and shows it in the docs."""
    with Path(__file__).open() as lock:  # there may be another of these programs
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [one for one in load_rows() if (one.fault, one.seed) != (row.fault, row.seed)]
        rows = sorted([*others, row], key=lambda one: (one.fault, one.seed))
        lines = ",\n".join(json.dumps(asdict(one)) for one in rows)
        write_whole(RESULTS, f"[\n{lines}\n]\n")
        show()


def show() -> None:
    """Writes the table into the docs."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    write_whole(PAGE, f"{before}{BEGIN}\n{table(load_rows())}{END}{after}")


def table(rows: Iterable[Row]) -> str:
    """Makes the table of the docs; a fault whose every try held says nothing else."""
    tried: dict[str, list[Row]] = {}
    for row in rows:
        tried.setdefault(row.fault, []).append(row)
    lines = [
        "| Fault | Tries | Held | Lost work | Twice | Recovery, median and worst | Left |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, known in FAULTS.items():
        found = tried.get(name, [])
        seconds = [row.recovery_s for row in found if row.recovery_s is not None]
        told = (median(seconds), max(seconds)) if seconds else ()
        recovery = ", ".join(f"{one:.0f} s" if one >= 10 else f"{one:.2g} s" for one in told)
        held = sum(row.outcome == HELD for row in found)
        lost, twice, left = (
            sum(getattr(row, what) for row in found) for what in ("lost", "twice", "left")
        )
        cells = (f"`{name}`: {known.what}", len(found), held, lost, twice, recovery, left)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
