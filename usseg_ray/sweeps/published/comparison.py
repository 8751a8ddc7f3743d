"""The table of a reproduction: our score, the published one, and how far they are apart."""

from collections.abc import Mapping
from pathlib import Path

from usseg_ray.core.table import OURS, Cell, Column, Spread, Table, TableRow
from usseg_ray.scoring.objective import MIOU
from usseg_ray.sweeps.presets import find_preset
from usseg_ray.sweeps.published.cells import SETS
from usseg_ray.sweeps.published.preset import Preset
from usseg_ray.sweeps.published.scores import (
    NETWORKS,
    PublishedScore,
    find_score,
    published_scores,
)
from usseg_ray.sweeps.request import Request
from usseg_ray.trials.trial import (
    ENDED,
    FINALISTS,
    Trial,
    load_scored,
    load_trials,
    number_and_seed,
)

VARIANTS = {"mlp": "MLP", "tr": "TR", "mdc": "MDC", "h": "PiCIE+H"}
"""Variant of a preset -> as the publication calls it."""

_ACC = "unsup_acc"
_REFINED = "flip_crf."
_KEYS = (MIOU, _ACC, _REFINED + MIOU, _REFINED + _ACC)
_THEIRS = {MIOU: "published_miou", _ACC: "published_acc"}

SHOWN = (
    "name",
    "backbone",
    "seeds",
    MIOU,
    _REFINED + MIOU,
    "published_miou",
    "difference",
    "acc_difference",
    "remark",
)
"""What a terminal has room for."""

COLUMNS = (
    Column("name", "method", whole=True),
    Column("backbone", "backbone"),
    Column("seeds", "seeds", 0),
    Column(MIOU, "mIoU", whole=True),
    Column(_REFINED + MIOU, "flip+crf", whole=True),
    Column("published_miou", "published", whole=True),
    Column("difference", "diff", whole=True),
    Column(_ACC, "acc", whole=True),
    Column(_REFINED + _ACC, "acc, flip+crf", whole=True),
    Column("published_acc", "published acc", whole=True),
    Column("acc_difference", "acc diff", whole=True),
    Column("refiner", "refined there"),
    Column("source", "source"),
    Column("protocol", "scored under"),
    Column("remark", "remark"),
    Column("note", "note"),
)


def comparison(runs: Mapping[str, Path], faults: Mapping[str, str] = {}) -> Table:
    """Puts runs of published settings beside what is published.

    A difference is ours minus theirs, in points, of the score that was refined as theirs; where
    they do not say how, of the plain one.

    Args:
        runs: Names and folders of the runs, of one published set.
        faults: Names of those that failed, and why.

    Returns:
        A row for each run, then those numbers of the same methods that no run is beside.
    """
    requests = {name: Request.load(folder) for name, folder in runs.items()}
    presets = {name: find_preset(str(one.preset)) for name, one in requests.items()}
    known = {ours: official for official, ours in SETS.items()}
    data = known[next(iter(presets.values())).data]
    rows, beside = list[TableRow](), list[PublishedScore | None]()
    for name, folder in runs.items():
        theirs, row = _row(data, presets[name], folder, faults.get(name, ""))
        rows.append(row)
        beside.append(theirs)
    named = {(one.method, VARIANTS.get(one.variant, "")) for one in presets.values()}
    others = (one for one in published_scores(data) if (one.method, one.variant) in named)
    rows += [_alone(one) for one in others if one not in beside]
    caption = (
        f"{data}, official validation images: mIoU and accuracy of one-to-one matching, percent; "
        "differences in points, of scores that are refined alike"
    )
    return Table(caption, COLUMNS, _grouped(rows))


def runs_of(folder: Path) -> list[Trial]:
    """Reads the records of a run: of its trial, and of those that train it with further seeds."""
    return [*load_trials(folder), *load_trials(folder / FINALISTS)]


def _row(
    data: str, preset: Preset, folder: Path, fault: str
) -> tuple[PublishedScore | None, TableRow]:
    """Makes the row of a run, and finds the number that it stands beside."""
    request, records = Request.load(folder), runs_of(folder)
    network = preset.network(request.assigned)
    theirs = find_score(data, preset.method, VARIANTS.get(preset.variant, ""), network)
    found, protocol, crf = _scores(folder)
    reasons = (one.reason for one in records if one.status not in ENDED)
    reason = fault or next(filter(None, reasons), "")
    cells: dict[str, Cell] = {
        "name": _name(preset.method, VARIANTS.get(preset.variant, "")),
        "backbone": NETWORKS.get(network, network),
        "seeds": float(spread.count) if (spread := found.get(MIOU)) else None,
        "protocol": protocol or None,
        "remark": ("failed" if fault else _state(records)) or None,
        "note": "; ".join(filter(None, [reason, crf, _changed(preset, request)])) or None,
        **{key: found.get(key) for key in _KEYS},
    }
    return theirs, TableRow(cells | _beside(theirs, found))


def _name(method: str, variant: str) -> str:
    return f"{method} {variant}".strip()


def _scores(folder: Path) -> tuple[dict[str, Spread], str, str]:
    """Summarises a run's scores on the test split over its seeds.

    Returns:
        Metric -> spread, what they were measured under, and which CRF refined them.
    """
    seeds = dict[int | None, dict[str, float]]()
    protocol = crf = ""
    own = {trial.name: int(trial.settings["seed"]) for trial in load_trials(folder)}
    for _, one in load_scored(folder):
        seed = own.get(one.trial, number_and_seed(one.trial)[1])
        seeds.setdefault(seed, {}).update(one.metrics)
        protocol, crf = one.protocol, one.crf or crf
    values = {key: [m[key] for m in seeds.values() if key in m] for key in _KEYS}
    spreads = {key: spread for key, found in values.items() if (spread := Spread.of(found))}
    return spreads, protocol, f"CRF: {crf}" if crf else ""


def _state(records: list[Trial]) -> str:
    """Says that a run has no score of some seed yet, where that is so."""
    states = [one.status.lower() for one in records if one.status != "FINISHED"]
    return next(iter(states), "" if records else "not begun")


def _changed(preset: Preset, request: Request) -> str:
    """Names settings that are not as published, whatever machine they are for."""
    measured = preset.measured(request.assigned)
    changed = [
        f"{key}={value}"
        for key, value in request.assigned.items()
        if not key.startswith(("backbone.", "resources.")) and measured.get(key) != value
    ]
    return f"not as published: {', '.join(changed)}" if changed else ""


def _beside(theirs: PublishedScore | None, found: Mapping[str, Spread]) -> dict[str, Cell]:
    """Fills in what is published, and the differences to it."""
    if theirs is None:
        return {}
    prefix = _REFINED if theirs.refiner == "flip+crf" else ""
    cells = _published(theirs)
    for key, name in ((MIOU, "difference"), (_ACC, "acc_difference")):
        ours, number = found.get(prefix + key), cells[_THEIRS[key]]
        if ours is not None and isinstance(number, float):
            cells[name] = ours.mean - number
    return cells


def _published(score: PublishedScore) -> dict[str, Cell]:
    return {
        _THEIRS[MIOU]: score.unsup_miou,
        _THEIRS[_ACC]: score.unsup_acc,
        "refiner": score.refiner,
        "source": score.source,
    }


def _alone(score: PublishedScore) -> TableRow:
    name = _name(score.method, score.variant)
    return TableRow({"name": name, "backbone": score.backbone, **_published(score)}, "published")


def _grouped(rows: list[TableRow]) -> tuple[TableRow, ...]:
    """Puts rows of a method together, ours first, in the order in which they come."""
    names = list(dict.fromkeys(row.cells["name"] for row in rows))
    return tuple(
        sorted(rows, key=lambda row: (names.index(row.cells["name"]), row.kind not in OURS))
    )
