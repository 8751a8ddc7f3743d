"""What no fault may cost: finished work, or anything twice, or something left behind."""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil

from tests.faults.scenario import Sweep
from usseg_ray.core.files import UNFINISHED

TWICE = """
SELECT 'run ' || t.value || coalesce('-seed' || e.value, '') FROM tags t
JOIN tags s ON s.run_uuid = t.run_uuid AND s.key = 'usseg.sweep'
LEFT JOIN tags e ON e.run_uuid = t.run_uuid AND e.key = 'usseg.seed'
WHERE t.key = 'usseg.trial' GROUP BY s.value, t.value, e.value HAVING count(*) > 1
UNION ALL
SELECT run_uuid || ' ' || key || ' at ' || step FROM metrics
GROUP BY run_uuid, key, step HAVING count(*) > 1
"""
OPEN = "SELECT name FROM runs WHERE status NOT IN ('FINISHED', 'KILLED', 'FAILED')"
OTHERS = (
    *("ray::IDLE", "ray::DashboardAgent", "ray::_AutoscalingCoordinatorActor"),
    *("mlflow", "multiprocessing"),
)
"""What serves all tries: of a Ray that outlives them, the tracking server, Python's helpers."""

OWN = ("pymp-", "torchinductor_", "ray")
"""How names begin of what Python, PyTorch and Ray (its logs) keep in the folder for such files."""

OTHER_FILES: set[Path] = set()
"""What the tracking server keeps there."""

PATIENCE_S = 30.0


def twice(store: Path) -> list[str]:
    """Names the trials with more than one run, and the points that a metric has more than once."""
    return asked(store, TWICE)


def asked(store: Path, query: str, *values: str) -> list[str]:
    """Asks a tracking store for names."""
    with closing(sqlite3.connect(store)) as found:
        return [name for (name,) in found.execute(query, values)]


def lost(before: dict[str, dict[str, Any]], sweep: Sweep) -> list[str]:
    """Names the trials that had ended and are not what they were, times included."""
    after = sweep.finished()
    return [name for name, record in before.items() if after.get(name) != record]


@cache
def undisturbed(workers: int = 0) -> dict[str, Any]:
    """The scores of the same sweep when nothing happens to it."""
    root = Path(mkdtemp(prefix="undisturbed"))
    sweep = Sweep(root, workers=workers)
    life = sweep.begin()
    assert life.end() == 0, life.said()
    found = sweep.scores()
    assert "final" in found
    shutil.rmtree(root)
    return found


def same_end(sweep: Sweep, left_out: str | None = None) -> None:
    """Asserts that the sweep found what the undisturbed one did, and left nothing open.

    With smaller batches, for lack of memory, a trial ends otherwise, but it ends.

    Args:
        sweep: As it ended.
        left_out: How the names of final scores begin that it need not have.
    """
    expected, found = dict(undisturbed(sweep.workers)), sweep.scores()
    if left_out:
        expected["final"] = without(left_out, expected["final"])
        found["final"] = without(left_out, found["final"])
    smaller = bool(list(sweep.folder.glob("*/batch_size.json")))
    different = [
        name
        for name in expected
        if name not in found or (found[name] != expected[name] and not smaller)
    ]
    assert not different, f"{', '.join(different)}: other scores than undisturbed"
    assert not (running := asked(sweep.store, OPEN)), f"still running in the store: {running}"


def without(start: str, final: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Takes the scores whose name begins so out of final ones, and the sum of the file."""
    return {
        run: {name: score for name, score in scores.items() if not name.startswith(start)}
        for run, scores in final.items()
        if run != "sha256"
    }


class Leftovers:
    """What is there before a try, to tell what it leaves."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._processes, self._files = set(_processes()), set(_files())

    def found(self) -> list[str]:
        """Names what is left; processes have a while to end."""
        ends = time.monotonic() + PATIENCE_S
        while (alive := self._alive()) and time.monotonic() < ends:
            time.sleep(0.2)
        files = [str(path) for path in set(_files()) - self._files - OTHER_FILES]
        unfinished = [str(path) for path in self._root.rglob(f".*{UNFINISHED}")]
        return sorted([*alive, *files, *unfinished])

    def _alive(self) -> list[str]:
        return [name for pid, name in _processes().items() if pid not in self._processes]


def _processes() -> dict[int, str]:
    """Names every process of this machine but idle ones of Ray, and this one's helpers."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())
            ended = process.status() == psutil.STATUS_ZOMBIE
            if (
                not ended
                and not any(word in name for word in OTHERS)
                and process.pid != os.getpid()
            ):
                found[process.pid] = name[:60]
    return found


def _files() -> Iterator[Path]:
    """Yields the shared memory and temporary files of this machine."""
    for folder in ("/dev/shm", "/tmp", "/var/tmp"):
        yield from (path for path in Path(folder).glob("*") if not path.name.startswith(OWN))
