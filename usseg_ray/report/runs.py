"""Compares runs by what lies in their folders: finalists of any sweeps, a table a protocol.

It needs no store. Runs whose scores were counted on the same images, label for label, are paired,
whichever sweeps they are of, and with whichever backbone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase

from usseg_ray.core.table import Cell, Column, Spread, Table, TableRow, in_order
from usseg_ray.engine.baselines import baseline_rows
from usseg_ray.scoring.arrays import COUNTS, read_counts
from usseg_ray.scoring.metrics import MatchedCounts
from usseg_ray.scoring.objective import MIOU, picked_by
from usseg_ray.scoring.significance import paired_bootstrap
from usseg_ray.sweeps.tables import behind, in_two_lines
from usseg_ray.trials.trial import (
    FINALISTS,
    TRIAL_FILE,
    SplitScores,
    Trial,
    load_scored,
    load_trial,
    number_and_seed,
    trial_name,
)

COLUMNS = (
    Column("rank", "rank", 0),
    Column("letter", "run"),
    Column("name", "trial", whole=True),
    Column("backbone", "backbone"),
    Column("seeds", "seeds", 0, whole=True),
    Column(MIOU, MIOU, whole=True),
    Column("behind", "behind the first"),
    Column("unsup_acc", "acc", whole=True),
)
"""Of a comparison; those without a value are left out."""

_REFINED = f".{MIOU}"


@dataclass
class _Finalist:
    """A trial's settings as they were scored under one protocol, with one seed or several.

    Attributes:
        letter: Stands for its run; empty where there is one alone.
        run: Name of its run, as it was given.
        trial: Name of the sweep's trial.
        method: Name of its method.
        stamp: What it was scored under, its backbone included.
        baselines: Scores of baselines under the same.
        scores: Seed -> metrics, percent.
        places: Seed -> where its counts of images lie.
        records: Seed -> the record of that run, where it is there.
        finalist: Whether its sweep made it one, and not `evaluate` alone scored it.
    """

    letter: str
    run: str
    trial: str
    method: str
    stamp: str
    baselines: dict[str, float] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    places: dict[int, Path] = field(default_factory=dict)
    records: dict[int, Trial] = field(default_factory=dict)
    finalist: bool = False

    def take(self, seed: int, place: Path, scored: SplitScores, record: Trial | None) -> None:
        """Adds what was scored with a seed, by the sweep or by `evaluate`, which agree."""
        self.scores.setdefault(seed, {}).update(_named(scored))
        self.places.setdefault(seed, place)
        self.baselines |= scored.baselines
        if record is not None:
            self.records[seed] = record

    @property
    def protocol(self) -> str:
        """Data, split, protocol, frame and matching."""
        return self.stamp.partition("; ")[0]

    @property
    def backbone(self) -> str:
        """What it had features of."""
        return self.stamp.partition("; ")[2]

    @cached_property
    def counts(self) -> list[MatchedCounts]:
        """What was counted in every image, for every seed; empty where some of it is missing."""
        places = [self.places[seed] for seed in self.scores]
        there = all((place / COUNTS).is_file() for place in places)
        return [read_counts(place) for place in places] if there else []

    @cached_property
    def images(self) -> str:
        """Tells sets of images apart by their labelled pixels; empty where nothing is known."""
        digests = {sha256(one.actual.tobytes()).hexdigest() for one in self.counts}
        return digests.pop() if len(digests) == 1 else ""

    @property
    def selection(self) -> float | None:
        """Its mean on the selection split, by what trials are ranked by there."""
        found = [score for one in self.records.values() if (score := one.score) is not None]
        return fmean(found) if found else None

    def spread(self, metric: str) -> Spread | None:
        """Summarises a metric over the seeds that have it."""
        return Spread.of([found[metric] for found in self.scores.values() if metric in found])


@dataclass
class _Group:
    """What compares: the same data, split and protocol, and the same images."""

    finalists: list[_Finalist] = field(default_factory=list)
    baselines: dict[tuple[str, float], None] = field(default_factory=dict)


def compare(runs: Mapping[str, Path], protocol: str | None = None) -> list[Table]:
    """Ranks finalists of runs, the baselines among them, under each protocol that has scores.

    Args:
        runs: Names of sweeps or trials, and their folders.
        protocol: Only scores whose protocol's stamp contains this.

    Returns:
        A table for each protocol and set of images, finalists by their mean over seeds, with the
        paired interval of how far they are behind the first; empty without any score.
    """
    letters = dict(zip(runs, _letters(len(runs)), strict=True))
    groups: dict[tuple[str, str], _Group] = {}
    for name, folder in runs.items():
        for finalist in _finalists(letters[name], name, folder, protocol):
            group = groups.setdefault((finalist.protocol, finalist.images), _Group())
            group.finalists.append(finalist)
            group.baselines |= dict.fromkeys(finalist.baselines.items())
    legend = "\n".join(f"{letter}: {name}" for name, letter in letters.items() if letter)
    return [_table(name, legend, group) for (name, _), group in groups.items()]


def _letters(count: int) -> list[str]:
    """Names runs so shortly that a terminal keeps them apart: A, B, ... where there are several."""
    alphabet = [*ascii_uppercase, *map(str, range(len(ascii_uppercase) + 1, count + 1))]
    return alphabet[:count] if count > 1 else [""]


def _finalists(letter: str, run: str, folder: Path, protocol: str | None) -> Collection[_Finalist]:
    """Puts the scores of a run together, those of a trial's seeds under one protocol in one."""
    found: dict[tuple[str, str], _Finalist] = {}
    for place, one in load_scored(folder):
        if protocol is not None and protocol not in one.protocol:
            continue
        number, seed = number_and_seed(one.trial)
        trial, record = trial_name(number), _record(folder, place, one)
        new = _Finalist(letter, run, trial, one.method, one.protocol)
        if seed is None and record is not None:
            seed = int(record.settings["seed"])
        kept = found.setdefault((one.protocol, trial), new)
        kept.take(seed or 0, place, one, record)
        kept.finalist |= place.is_relative_to(folder / FINALISTS)
    return found.values()


def _record(run: Path, place: Path, scored: SplitScores) -> Trial | None:
    """Finds the record of what was scored: a finalist's own, else its trial's."""
    number, _ = number_and_seed(scored.trial)
    above = run / FINALISTS / scored.trial, run / trial_name(number), *place.parents[:2]
    there = (folder for folder in above if (folder / TRIAL_FILE).is_file())
    home = next(there, None)
    return load_trial(home) if home else None


def _named(scored: SplitScores) -> dict[str, float]:
    """Says which CRF refined a score, since two kinds do not compare."""
    return {
        f"{name} ({scored.crf})" if scored.crf and "crf" in name.partition(".")[0] else name: value
        for name, value in scored.metrics.items()
    }


def _table(protocol: str, legend: str, group: _Group) -> Table:
    finalists = sorted(group.finalists, key=lambda one: -_mean(one))
    several = len({one.backbone for one in finalists}) > 1
    backbone = "" if several else f"; {finalists[0].backbone}"
    rows = [_row(one, finalists[0], finalists, several=several) for one in finalists]
    rows += map(in_two_lines, baseline_rows(group.baselines))
    refined = dict.fromkeys(key for row in rows for key in row.cells if _REFINED in key)
    caption = "\n".join(filter(None, (protocol + backbone, *_picked(finalists), legend)))
    columns = (*COLUMNS, *(Column(key, key) for key in refined))
    return Table(caption, columns, in_order(rows, MIOU))


def _picked(finalists: Sequence[_Finalist]) -> list[str]:
    """Says what picked settings and finalists, where all sweeps had it alike."""
    records = [next(iter(one.records.values())) for one in finalists if one.records]
    splits = {(r.objective, str(r.settings.get("data.selection_split", "val"))) for r in records}
    return [picked_by(*splits.pop())] if len(splits) == 1 else []


def _mean(finalist: _Finalist) -> float:
    spread = finalist.spread(MIOU)
    return spread.mean if spread else 0.0


def _row(
    one: _Finalist, first: _Finalist, among: Sequence[_Finalist], *, several: bool
) -> TableRow:
    metrics = dict.fromkeys(name for found in one.scores.values() for name in found)
    clusters = next((r.settings.get("num_clusters") for r in one.records.values()), None)
    choice = _is_choice(one, among)
    cells: dict[str, Cell] = {
        **{name: one.spread(name) for name in metrics},
        "rank": 0.0,
        "letter": one.letter or None,
        "run": one.run,
        # A column of its own for each would not fit a terminal.
        "name": f"{one.trial}\n{one.method} K={clusters}",
        "trial": one.trial,
        "method": one.method,
        "num_clusters": float(clusters) if isinstance(clusters, int) else None,
        "backbone": one.backbone if several else None,
        "seeds": float(len(one.scores)),
        "remark": "choice" if choice else None,
        **(_behind(first, one) if one is not first else {}),
    }
    return TableRow(cells, "best" if choice else "")


def _is_choice(one: _Finalist, among: Sequence[_Finalist]) -> bool:
    """Whether its sweep, which had a choice, chose it: by the selection split alone."""
    own = [other for other in among if other.run == one.run and other.selection is not None]
    own = [other for other in own if other.finalist] or own
    return len(own) > 1 and one is max(own, key=lambda other: other.selection or 0.0)


def _behind(first: _Finalist, one: _Finalist) -> dict[str, Cell]:
    if not (first.counts and one.counts):
        return {"behind": f"{_mean(first) - _mean(one):.1f}, images unknown"}
    found = paired_bootstrap(first.counts, one.counts)
    numbers = {"mean": found.mean, "low": found.low, "high": found.high}
    return {"behind": behind(found), **{f"behind_{name}": end for name, end in numbers.items()}}
