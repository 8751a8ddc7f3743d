"""The charts of a report: the score over K, over epochs, and across all that a sweep varied.

It stands after `read`, beside `leaderboard` and `details`. Every chart comes with the table of the
numbers that it draws.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from usseg_ray.core.table import Cell, Column, Spread, Table, TableRow
from usseg_ray.data.plans import spread
from usseg_ray.engine.baselines import label as baseline_label
from usseg_ray.report.content import Chart, Note, PageBlock, Section
from usseg_ray.report.gallery import k_maps
from usseg_ray.report.read import RunRecord, Store, SweepRecord
from usseg_ray.report.svg import Axis, Series, line_chart, parallel_axes
from usseg_ray.scoring.objective import MIOU, STABILITY, digits, short
from usseg_ray.tracking.store import SEED_TAG

_SCORE = "unsupervised mIoU, %"
MOST_CURVES, MOST_POINTS = 50, 50
"""Learning curves of a method, and points of each, that a screen tells apart; of more, some."""
MOST_LINES = 200
"""Trials of a method across parallel axes: as above."""
_MAX_AXES = 9
_NARROW_AXES = 3
"""Settings in a drawing for a phone, beside the score."""


def k_curve(store: Store, sweeps: Sequence[SweepRecord]) -> Section:
    """Draws scores over the number of clusters, a line a method, and shows the label maps around K.

    Where several trials or seeds share K, the point is their mean and the bar their deviation.
    """
    blocks: list[PageBlock] = []
    for number, sweep in enumerate(sweeps):
        for metric in dict.fromkeys((sweep.objective, MIOU, STABILITY)):
            label = _SCORE if metric == MIOU else short(metric)
            groups = _over_k(sweep, metric)
            if len({k for _, k in groups}) > 1:
                levels = _levels(sweep) if metric == MIOU else []
                key = f"k-{number}-{metric.replace('_', '-').replace('.', '-')}"
                blocks.append(_k_chart(sweep, groups, label, digits(metric), levels, key))
        blocks += k_maps(store, sweep)
    why = Note("Trials with scores do not differ in the number of clusters.")
    return Section("k-curve", "Number of clusters", tuple(blocks) or (why,))


def _over_k(sweep: SweepRecord, metric: str) -> dict[tuple[str, int], Spread]:
    """Gathers a metric by method and K, finalists' further seeds among them."""
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    first = {run.trial: str(run.params.get("seed")) for run in sweep.trials}
    further = [run for run in sweep.seeds if run.tags[SEED_TAG] != first.get(run.trial)]
    for run in (*sweep.trials, *further):
        clusters = run.params.get("num_clusters")
        if run.ranked and metric in run.metrics and isinstance(clusters, int):
            values[run.method, clusters].append(run.metrics[metric])
    spreads = {key: Spread.of(found) for key, found in sorted(values.items())}
    return {key: spread for key, spread in spreads.items() if spread}


def _k_chart(
    sweep: SweepRecord,
    groups: dict[tuple[str, int], Spread],
    label: str,
    places: int,
    levels: list[tuple[str, float]],
    key: str,
) -> Chart:
    series = []
    for style, method in enumerate(sweep.methods):
        own = [(k, spread) for (name, k), spread in groups.items() if name == method]
        if own:
            points = tuple((float(k), spread.mean) for k, spread in own)
            bars = tuple(spread.deviation for _, spread in own)
            series.append(Series(method, points, style, bars))
    caption = f"{label} over K: {sweep.protocol}"
    columns = (Column("method", "method"), Column("num_clusters", "K", 0))
    table = Table(
        caption,
        (*columns, Column("value", label, places), Column("runs", "runs", 0)),
        tuple(
            TableRow({"method": name, "num_clusters": float(k), "value": s, "runs": float(s.count)})
            for (name, k), s in groups.items()
        ),
    )
    summary = f"{len(series)} methods, {len(groups)} points; the table below has the numbers."
    return Chart(line_chart(caption, summary, series, "K", label, levels=levels, key=key), table)


def _levels(sweep: SweepRecord) -> list[tuple[str, float]]:
    """Names the lines across: the floors and the ceiling of the selection split."""
    return [
        (baseline_label(key.removeprefix("baseline.")), value)
        for key, value in sorted(sweep.parent.metrics.items())
        if key.startswith("baseline.")
    ]


def learning_curves(store: Store, sweeps: Sequence[SweepRecord]) -> Section:
    """Draws the score and the loss over epochs, a line a trial; losses of methods apart."""
    blocks: list[PageBlock] = []
    for number, sweep in enumerate(sweeps):
        styles = {method: style for style, method in enumerate(sweep.methods)}
        drawn = some_evenly(sweep.trials, MOST_CURVES)
        for place, metric in enumerate(dict.fromkeys((MIOU, sweep.objective))):
            scores = store.histories(drawn, metric)
            if any(len(history) > 1 for history in scores.values()):
                label = _SCORE if metric == MIOU else short(metric)
                said = _thinned(drawn, sweep.trials, scores)
                caption = f"{label}, over epochs{said}: {sweep.protocol}"
                key = f"epochs-{number}-{place}"
                blocks.append(_epochs(drawn, scores, styles, caption, label, key, by_method=True))
        for method in sweep.methods:
            runs = [run for run in drawn if run.method == method]
            losses = store.histories(runs, "loss")
            if any(len(history) > 1 for history in losses.values()):
                own = [run for run in sweep.trials if run.method == method]
                label = (
                    f"loss of {method} over epochs, in its own unit{_thinned(runs, own, losses)}"
                )
                key = f"loss-{number}-{styles[method]}"
                blocks.append(_epochs(runs, losses, styles, label, "loss", key))
    why = Note("No trial was scored in more than one epoch.")
    return Section("learning", "Learning curves", tuple(blocks) or (why,))


def some_evenly(trials: Sequence[RunRecord], most: int) -> list[RunRecord]:
    """Takes trials, best first; of a method with more than `most` some, evenly by rank."""
    ranks: dict[str, list[str]] = defaultdict(list)
    for run in trials:
        ranks[run.method].append(run.id)
    kept = {own[n] for own in ranks.values() for n in spread(len(own), most)}
    return [run for run in trials if run.id in kept]


def _thinned(
    drawn: Sequence[RunRecord],
    trials: Sequence[RunRecord],
    histories: Mapping[str, Mapping[int, float]],
) -> str:
    """Says what a chart leaves out of many trials and epochs; nothing where it has all."""
    longest = max(map(len, histories.values()), default=0)
    said = f", {len(drawn)} of {len(trials)} trials" if len(drawn) < len(trials) else ""
    return said + (f", {MOST_POINTS} of {longest} epochs" if longest > MOST_POINTS else "")


def _epochs(
    runs: Sequence[RunRecord],
    histories: Mapping[str, Mapping[int, float]],
    styles: dict[str, int],
    caption: str,
    label: str,
    key: str,
    *,
    by_method: bool = False,
) -> Chart:
    """Draws histories; the best trial of each method is named, the others are thin."""
    series, seen, rows = list[Series](), set[str](), list[TableRow]()
    for run in runs:
        if history := histories[run.id]:
            named = run.method not in seen
            seen.add(run.method)
            name = f"{run.method} {run.trial}" if by_method else run.trial
            steps = list(history)
            kept = [*(steps[n] for n in spread(len(steps) - 1, MOST_POINTS - 1)), steps[-1]]
            points = tuple((float(step), history[step]) for step in kept)
            series.append(Series(name, points, styles[run.method], (), named))
            rows += [
                TableRow({"trial": run.trial, "method": run.method, "epoch": x, "value": y})
                for x, y in points
            ]
    digits = 1 if label == _SCORE else 4
    columns = (Column("trial", "trial"), Column("method", "method"), Column("epoch", "epoch", 0))
    table = Table(caption, (*columns, Column("value", label, digits)), tuple(rows))
    summary = f"{len(series)} trials; the best of each method has its name beside it."
    return Chart(line_chart(caption, summary, series, "epoch", label, key=key), table)


def parallel_coordinates(sweeps: Sequence[SweepRecord]) -> Section:
    """Draws what the trials of each method varied, and what they scored."""
    blocks: list[PageBlock] = []
    for number, sweep in enumerate(sweeps):
        for style, method in enumerate(sweep.methods):
            runs = [run for run in sweep.trials if run.method == method and run.ranked]
            if keys := varied(runs):
                blocks.append(_parallel(sweep, method, runs, keys, f"axes-{number}-{style}"))
    why = Note("Trials of a method do not differ in their settings.")
    return Section("settings", "Settings and scores", tuple(blocks) or (why,))


def varied(runs: Sequence[RunRecord]) -> list[str]:
    """Lists the settings in which runs differ, in the order in which they are logged.

    Of K and K per class, from which it follows, only K is listed.
    """
    keys = dict.fromkeys(key for run in runs for key in run.params)
    found = [key for key in keys if len({str(run.params.get(key)) for run in runs}) > 1]
    return [key for key in found if key != "clusters_per_class" or "num_clusters" not in found]


def _parallel(
    sweep: SweepRecord, method: str, runs: list[RunRecord], keys: list[str], key: str
) -> Chart:
    label, digits = (_SCORE, 1) if sweep.objective == MIOU else (short(sweep.objective), 3)
    drawn = some_evenly(runs, MOST_LINES)
    said = f", {len(drawn)} of {len(runs)} drawn" if len(drawn) < len(runs) else ""
    caption = f"Trials of {method} by what they varied{said}: {sweep.protocol}"
    axes = [
        Axis(name.rpartition(".")[2], tuple(_axis_value(run.params.get(name)) for run in drawn))
        for name in keys[:_MAX_AXES]
    ]
    scores = tuple(round(run.score or 0.0, digits) for run in drawn)
    axes.append(Axis(label.removeprefix("unsupervised ").removesuffix(", %"), scores))
    named = (Column("trial", "trial"), *(Column(name, name, None) for name in keys))
    rows = []
    for run in runs:
        settings: dict[str, Cell] = {name: _axis_value(run.params.get(name)) for name in keys}
        rows.append(TableRow({"trial": run.trial, **settings, "score": run.score}))
    table = Table(caption, (*named, Column("score", label, digits)), tuple(rows))
    summary = (
        f"{len(drawn)} trials across {len(axes)} axes; the best one, {runs[0].trial}, is named."
    )
    names = [run.trial for run in drawn]
    return Chart(
        parallel_axes(caption, summary, axes, names, key=key),
        table,
        tuple(
            parallel_axes(caption, summary, part, names, key=f"{key}-{place}")
            for place, part in enumerate(in_parts(axes))
        ),
    )


def in_parts(axes: Sequence[Axis]) -> list[list[Axis]]:
    """Cuts many axes into few at a time, each time with the last one, which is the score's.

    Returns:
        The axes of each drawing; none where they fit one.
    """
    *varied, score = axes
    if len(varied) <= _NARROW_AXES:
        return []
    starts = range(0, len(varied), _NARROW_AXES)
    return [[*varied[start : start + _NARROW_AXES], score] for start in starts]


def _axis_value(value: Any) -> float | str:  # noqa: ANN401
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else "none" if value is None else str(value)
