"""What earlier runs of the benchmarks found on this machine, and what has changed since.

After a benchmark: its figures, with date, versions and machine, become a line of `bench.jsonl`
beside the prepared sets. A comparison looks at ratios, not at figures: what else the machine did
slowed the reference down as well.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import log
from pathlib import Path
from statistics import stdev
from typing import Any

import psutil
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from usseg_ray import __version__
from usseg_ray.bench.meter import GB, Measure
from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import cpu_name, usable_cpus, vector_instructions
from usseg_ray.data.library import cache_root

HISTORY = "bench.jsonl"
NOISE = 0.1
"""Relative change of a ratio that says nothing, where earlier runs do not show that more is."""

_PACKAGES = ("torch", "timm", "numpy", "ray", "mlflow")
_ENOUGH_RUNS = 3
_KEY = ("benchmark", "what", "unit", "reference")

Record = dict[str, Any]
"""A run: `date`, `what`, `full`, `versions`, `core.machine`, `load` and `measures`."""


def history_path() -> Path:
    """Says where runs are kept: beside the prepared sets."""
    return cache_root() / HISTORY


def machine() -> dict[str, Any]:
    """Describes what the figures depend on: only runs on equal machines are compared."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = round(psutil.virtual_memory().total / GB)
    return {
        "cpu": cpu_name(),
        "vector_instructions": vector_instructions(),
        "cores": usable_cpus(),
        "memory_gb": memory,
        "gpu": gpu,
    }


def make_record(what: str, measures: Sequence[Measure], *, full: bool) -> Record:
    """Gathers a run and what it depends on.

    Args:
        what: Which benchmarks were asked for.
        measures: What they found.
        full: Whether the long ones were among them.

    Returns:
        Plain values, as they are printed with `--json` and kept.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": what,
        "full": full,
        "versions": _versions(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2),
        "measures": [asdict(one) | {"ratio": one.ratio, "passed": one.passed} for one in measures],
    }


def _versions() -> dict[str, str]:
    found = {"usseg_ray": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def append(record: Record) -> Path:
    """Adds a run to the history.

    Returns:
        The file.

    Raises:
        UserError: It cannot be written.
    """
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error}). Choose another folder with USSEG_DATA."
        ) from error
    return path


def load_history() -> list[Record]:
    """Reads the runs on a machine like this one, the oldest first.

    Raises:
        UserError: A line is damaged.
    """
    path, here = history_path(), machine()
    found: list[Record] = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        try:
            record: Record = json.loads(line)
            if record["machine"] == here:
                found.append(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: line {number} is damaged ({error!r}). Remove it and run again."
            ) from None
    return found


@dataclass(frozen=True)
class Change:
    """One figure of the last run beside that of the run before.

    Attributes:
        last: In the last run.
        before: In the latest earlier run that has it, of an equal machine.
        date: Of that run.
        noise: Relative change of the ratio that says nothing.
    """

    last: Measure
    before: Measure
    date: str
    noise: float

    @property
    def times_better(self) -> float:
        """How many times as good the ratio has become; below 1 it is worse."""
        change = _level(self.last) / _level(self.before)
        return change if self.last.more_is_better else 1 / change

    @property
    def worse(self) -> bool:
        """Whether it is worse by more than the noise."""
        return self.times_better < 1 / (1 + self.noise)

    @property
    def better(self) -> bool:
        """Whether it is better by more than the noise."""
        return self.times_better > 1 + self.noise

    def row(self) -> dict[str, Any]:
        """Lists it as plain values, as it is printed with `--json`."""
        same = {name: getattr(self.last, name) for name in _KEY}
        judged = {name: getattr(self, name) for name in ("times_better", "noise", "worse")}
        return {**same, "before": self.before.value, "last": self.last.value, **judged}


def changes_since(records: Sequence[Record], what: str = "all") -> list[Change]:
    """Compares the last run with the runs before it, figure by figure.

    Args:
        records: Runs on one machine, the oldest first.
        what: One benchmark, or `all`.

    Returns:
        A change for each figure of the last run that an earlier one has too.

    Raises:
        UserError: There are no two runs.
    """
    mine = [one for one in records if _measures(one, what)]
    if len(mine) < 2:
        raise UserError(
            f"{history_path()} has {len(mine)} run{'' if len(mine) == 1 else 's'} of "
            f"`bench {what}` on a machine like this one; a comparison takes two."
        )
    changes = []
    for key, last in _measures(mine[-1], what).items():
        earlier = [(one["date"], _measures(one, what).get(key)) for one in mine[:-1]]
        known = [(date, measure) for date, measure in earlier if measure is not None]
        if known:
            date, before = known[-1]
            changes.append(Change(last, before, date, _noise([one for _, one in known])))
    return changes


def _measures(record: Record, what: str) -> dict[tuple[str, ...], Measure]:
    """Lists a run's figures by what they are."""
    fields = Measure.__dataclass_fields__
    found = (
        Measure(**{name: value for name, value in one.items() if name in fields})
        for one in record["measures"]
    )
    return {
        tuple(getattr(one, name) for name in _KEY): one
        for one in found
        if what in ("all", one.benchmark) and _level(one) > 0
    }


def _level(measure: Measure) -> float:
    """Gives the ratio, or where there is none the figure itself."""
    return measure.value if measure.ratio is None else measure.ratio


def _noise(earlier: Sequence[Measure]) -> float:
    """Estimates how far ratios lie apart from run to run: twice their deviation."""
    if len(earlier) < _ENOUGH_RUNS:
        return NOISE
    return max(NOISE, 2 * stdev(log(_level(one)) for one in earlier))


def change_table(changes: Sequence[Change]) -> Table:
    """Draws a comparison.

    Args:
        changes: From `changes_since`.

    Returns:
        A row for each figure; what is worse by more than the noise is marked.
    """
    table = Table("what", box=SIMPLE_HEAD, padding=(0, 1))
    table.title = "The last run beside the one before: figures, and what they are of their limits"
    for column in ("before", "last", "ratio before", "ratio last", "noise"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in changes:
        verdict = "[bold red]worse[/]" if one.worse else "[green]better[/]" if one.better else ""
        table.add_row(
            one.last.what,
            *(f"{each.value:.3g} {each.unit}" for each in (one.before, one.last)),
            *(f"{_level(each):.3g}" for each in (one.before, one.last)),
            f"{100 * one.noise:.0f} %",
            verdict,
        )
    return table
