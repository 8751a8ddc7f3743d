"""The leaderboards of a report: one table a protocol, so that ranks compare what compares.

It stands after `read`. Trials are ranked on the selection split, finalists on the untouched test
split; floors and the ceiling stand among them by their value, without a rank, and among finalists
what is published under their protocol too.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean

from usseg_ray.core.table import OURS, Cell, Column, Spread, Table, TableRow, in_order
from usseg_ray.engine.baselines import baseline_rows
from usseg_ray.report.content import Note, PageBlock, Section
from usseg_ray.report.read import RunRecord, SweepRecord
from usseg_ray.scoring.objective import MIOU, kept_clusters, short
from usseg_ray.scoring.significance import Difference
from usseg_ray.sweeps.published.scores import PublishedScore, published_scores
from usseg_ray.tracking.store import REASON_TAG

_NAME, _RANK = Column("name", "trial"), Column("rank", "rank", 0)
_MIOU = Column(MIOU, "unsupervised mIoU, %")
_NAMED = (
    Column("sweep", "sweep"),
    Column("method", "method"),
    Column("num_clusters", "K", 0),
)
_SCORES = (
    Column("unsup_acc", "accuracy, %"),
    Column("many_to_one_miou", "many-to-one mIoU, %"),
    Column("boundary_f", "boundary F, %"),
)
_REMARK = Column("remark", "remark")
_TRIALS = (_RANK, *_NAMED, *_SCORES, _REMARK)
# On a phone the first three are seen.
_FINALISTS = (
    _NAME,
    _MIOU,
    Column("noise", "beyond noise?"),
    _RANK,
    *_NAMED,
    Column("behind", "behind the choice, points"),
    Column("interval", "95 % over images and seeds"),
    Column("seeds", "seeds", 0),
    _REMARK,
)
_FURTHER = (
    _NAME,
    *_NAMED,
    *_SCORES,
    Column("linear_miou", "linear probe (supervised), %"),
    Column("label_selected_miou", "label-picked epoch mIoU, %"),
    Column("place", "selection place", 0),
)
_TEST_SCORES = [column.key for column in (_MIOU, *_SCORES)] + ["linear_miou", "label_selected_miou"]
_PUBLISHED = (
    Column("name", "method"),
    _MIOU,
    _SCORES[0],
    Column("source", "source"),
)


def leaderboard_section(sweeps: Sequence[SweepRecord]) -> Section:
    """Builds the leaderboards of sweeps, those of one protocol in one table.

    Args:
        sweeps: What to rank.

    Returns:
        Finalists on the test splits, then trials on the selection splits, then what is published.
    """
    several = len(sweeps) > 1
    blocks: list[PageBlock] = []
    for protocol, group in _by([s for s in sweeps if s.finalists()], "test_protocol"):
        if rows := _finalist_rows(group, several=several):
            rows += _baseline_rows(group, "test.baseline.") + _published_rows(protocol)
            caption = f"Finalists, scored on the test split: {protocol}{_picked(group)}"
            ordered = in_order(rows, MIOU)
            blocks.append(Table(caption, _FINALISTS, ordered))
            own = tuple(row for row in ordered if row.kind in OURS)
            blocks.append(Table(f"Further scores of the finalists: {protocol}", _FURTHER, own))
    if not blocks:
        blocks.append(Note("No trial was scored on an untouched test split."))
    for protocol, group in _by(sweeps, "protocol", "objective"):
        rows = [_trial_row(sweep, run, several=several) for sweep in group for run in sweep.trials]
        rows += _baseline_rows(group, "baseline.")
        blocks.append(_ranked(group[0].objective, protocol, rows))
    return Section("leaderboard", "Leaderboard", (*blocks, *_published(sweeps)))


def _picked(sweeps: Sequence[SweepRecord]) -> str:
    """Says what picked the finalists, of each sweep where that differs."""
    said = {sweep.name: sweep.picked for sweep in sweeps if sweep.picked}
    if len(set(said.values())) == 1 and len(said) == len(sweeps):
        return f"; {next(iter(said.values()))}"
    return "".join(f"; {name}: {picked}" for name, picked in said.items())


def _ranked(objective: str, protocol: str, rows: Sequence[TableRow]) -> Table:
    """Ranks trials by their objective, which has a column of its own if it is not mIoU."""
    if objective == MIOU:
        caption = f"Trials, ranked on the selection split: {protocol}"
        return Table(caption, (_NAME, _MIOU, *_TRIALS), in_order(rows, MIOU))
    caption = f"Trials, ranked on the selection split by {objective}, without labels: {protocol}"
    own = Column("objective", short(objective), 3)
    return Table(caption, (_NAME, own, _MIOU, *_TRIALS), in_order(rows, "objective"))


def _by(sweeps: Iterable[SweepRecord], *attributes: str) -> list[tuple[str, list[SweepRecord]]]:
    """Groups sweeps by a protocol, and what else tells them apart, in the order in which they come.

    Returns:
        The protocol and the sweeps of each group.
    """
    groups: dict[tuple[str, ...], list[SweepRecord]] = {}
    for sweep in sweeps:
        found = tuple(str(getattr(sweep, attribute)) for attribute in attributes)
        groups.setdefault(found, []).append(sweep)
    return [(protocol, group) for (protocol, *_), group in groups.items()]


def _named(sweep: SweepRecord, run: RunRecord, *, several: bool) -> dict[str, str | float | None]:
    clusters = run.params.get("num_clusters")
    return {
        "name": run.trial,
        "sweep": sweep.name if several else None,
        "method": run.method,
        "num_clusters": float(clusters) if isinstance(clusters, int) else None,
    }


def _trial_row(sweep: SweepRecord, run: RunRecord, *, several: bool) -> TableRow:
    scores = {column.key: run.metrics.get(column.key) for column in (_MIOU, *_SCORES)}
    rank = {"rank": 0.0} if run.ranked else {}
    return TableRow(
        {
            **_named(sweep, run, several=several),
            **rank,
            **scores,
            "objective": None if run.objective == MIOU else run.score,
            "remark": _remark(run),
        }
    )


def _remark(run: RunRecord, prefix: str = "") -> str | None:
    """Says what a reader must know before trusting the row's number."""
    said = [] if run.status == "FINISHED" else [run.status.lower()]
    if run.metrics.get(f"{prefix}collapsed"):
        said.append("collapsed: one cluster has nearly all pixels")
    if kept := kept_clusters(run.metrics):
        said.append(f"clusters: {kept}")
    if run.tags.get(REASON_TAG):
        said.append(run.tags[REASON_TAG])
    return "; ".join(said) or None


def _finalist_rows(sweeps: Sequence[SweepRecord], *, several: bool) -> list[TableRow]:
    rows = []
    for sweep in sweeps:
        scored = [
            (trial, done)
            for trial, runs in sweep.finalists()
            if (done := [run for run in runs if "test.unsup_miou" in run.metrics])
        ]
        scored.sort(key=lambda one: -selection_score(*one))
        for place, (trial, runs) in enumerate(scored, start=1):
            cells: dict[str, Cell] = {**_named(sweep, trial, several=several), "rank": 0.0}
            cells |= {key: Spread.of(_values(runs, key)) for key in _TEST_SCORES}
            # Of an earlier life the choice may have one, when it was not yet that.
            cells |= (_behind(trial.metrics) if place > 1 else {}) | {"place": float(place)}
            cells["seeds"] = float(len(runs)) if runs[0] is not trial else None
            remarks = ["the sweep's choice" if place == 1 else "", _remark(runs[0], "test.")]
            cells["remark"] = "; ".join(filter(None, remarks)) or None
            rows.append(TableRow(cells, "best" if place == 1 else ""))
    return rows


def selection_score(trial: RunRecord, runs: Sequence[RunRecord]) -> float:
    """Averages what a finalist's runs scored on the selection split, which chooses among them.

    A run with the trial's own seed is the trial itself, whose score it has.
    """
    return fmean(run.metrics.get(run.objective, trial.score or 0.0) for run in runs)


def _behind(metrics: Mapping[str, float]) -> dict[str, Cell]:
    """Says how far a finalist is behind the sweep's choice, and whether that is noise."""
    if "test.behind" not in metrics:
        return {}
    low, high = (metrics.get(f"test.behind_{end}") for end in ("low", "high"))
    behind = Difference(metrics["test.behind"], low, high)
    interval = None if low is None or high is None else f"{low:.1f} to {high:.1f}"
    verdict = {"": "yes", "noise": "no, noise"}.get(behind.verdict, behind.verdict)
    return {"behind": behind.mean, "interval": interval, "noise": verdict}


def _values(runs: Sequence[RunRecord], key: str) -> list[float]:
    return [run.metrics[f"test.{key}"] for run in runs if f"test.{key}" in run.metrics]


def _baseline_rows(sweeps: Sequence[SweepRecord], prefix: str) -> list[TableRow]:
    """Lists the baselines of sweeps under one protocol, each name once unless values differ."""
    found = {
        (key.removeprefix(prefix), value): None
        for sweep in sweeps
        for key, value in sweep.parent.metrics.items()
        if key.startswith(prefix)
    }
    return baseline_rows(found)


def data_name(protocol: str) -> str:
    """Reads the data set's name off a stamp."""
    return protocol.partition(", ")[0].rpartition(" ")[0]


def _same(score: PublishedScore, protocol: str) -> bool:
    """Whether a published number was measured as ours: data, official split, frame, no refiner.

    What papers call the validation split is `test` here.
    """
    where, _, how = protocol.partition(", ")
    same = where == f"{score.data} test" and how.partition(":")[0] == score.protocol
    return same and score.refiner == "none"


def _published_rows(protocol: str) -> list[TableRow]:
    return [
        TableRow(
            _published_cells(score) | {"remark": f"not ours: {score.source}"},
            "published",
        )
        for score in published_scores(data_name(protocol))
        if _same(score, protocol)
    ]


def _published_cells(score: PublishedScore) -> dict[str, str | float | None]:
    variant = f" ({score.variant})" if score.variant else ""
    return {
        "name": f"{score.method}{variant}, {score.backbone} (published)",
        "unsup_miou": score.unsup_miou,
        "unsup_acc": score.unsup_acc,
    }


def _published(sweeps: Sequence[SweepRecord]) -> list[PageBlock]:
    """Lists what is published under other protocols, a table each, ranked with nothing of ours."""
    protocols = {p for sweep in sweeps for p in (sweep.protocol, sweep.test_protocol)}
    names = sorted({data_name(protocol) for protocol in protocols})
    blocks: list[PageBlock] = []
    for name in names:
        scores = [
            score
            for score in published_scores(name)
            if not any(_same(score, protocol) for protocol in protocols)
        ]
        for stamp, group in groupby(scores, key=lambda score: score.stamp):
            rows = tuple(
                TableRow(
                    _published_cells(score) | {"source": score.source},
                    "published",
                )
                for score in group
            )
            caption = f"Published, under another protocol than ours, not reproduced: {stamp}"
            blocks.append(Table(caption, _PUBLISHED, rows))
        if not published_scores(name):
            blocks.append(Note(f"No published number is known for the data set {name!r}."))
    return blocks
