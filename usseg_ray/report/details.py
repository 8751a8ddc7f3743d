"""The rest of a report's sections: classes, pictures, label-free criteria, cost.

It stands after `read`, beside `leaderboard` and `curves`.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

from usseg_ray.core.table import Cell, Column, Spread, Table, TableRow
from usseg_ray.report.content import Note, PageBlock, Section
from usseg_ray.report.read import RunRecord, Store, SweepRecord
from usseg_ray.sweeps.criteria import FEWEST_TRIALS, criterion_trust
from usseg_ray.sweeps.tables import trust_row
from usseg_ray.tracking.store import GPUS_TAG
from usseg_ray.trials.trial import Status, Trial, number_and_seed

_COST = (
    Column("name", "run"),
    Column("method", "method"),
    Column("status", "state"),
    Column("seconds", "training and scoring, s"),
    Column("eval_seconds", "of it scoring, s"),
    Column("images_per_second", "training images/s"),
    Column("price", "price", 2),
)
_TRUST = (
    Column("criterion", "criterion"),
    Column("trials", "trials", 0),
    Column("spearman", "rank correlation with mIoU (Spearman)", 2),
    Column("chosen", "trial that it chooses"),
    Column("unsup_miou", "its unsupervised mIoU, %"),
    Column("regret", "points below the best trial"),
    Column("random_regret", "points below it by chance"),
)


def per_class(store: Store, sweeps: Sequence[SweepRecord]) -> Section:
    """Lists the score of every class, a column a finalist."""
    blocks = [table for sweep in sweeps if (table := _class_table(store, sweep))]
    why = Note("No finalist has a table of its classes in the store.")
    return Section("classes", "Classes", tuple(blocks) or (why,))


def shown_runs(
    sweep: SweepRecord, trial: RunRecord, runs: Sequence[RunRecord]
) -> tuple[tuple[RunRecord, ...], str]:
    """Says which runs hold a finalist's tables and pictures, and under which protocol.

    They are of the test split where a run for each seed was scored on it, else of the trial and of
    the selection split.
    """
    again = tuple(run for run in runs if run is not trial and "test.unsup_miou" in run.metrics)
    return (again, sweep.test_protocol) if again else ((trial,), sweep.protocol)


def _class_table(store: Store, sweep: SweepRecord) -> Table | None:
    columns, pixels, protocols = list[Column](), dict[str, float](), dict[str, None]()
    cells: dict[str, dict[str, Cell]] = {}
    for trial, runs in sweep.finalists():
        holders, protocol = shown_runs(sweep, trial, runs)
        tables = [rows for run in holders if (rows := _classes_of(store, run))]
        if not tables:
            continue
        protocols[protocol] = None
        columns.append(Column(trial.trial, f"{trial.method} {trial.trial}: IoU, %"))
        for rows in zip(*tables, strict=True):
            name = str(rows[0]["class"])
            found = [row["iou"] for row in rows if row["iou"] is not None]
            cells.setdefault(name, {})[trial.trial] = Spread.of(found)
            pixels[name] = float(rows[0]["pixels"])
    if not columns:
        return None
    named = (Column("class", "class"), Column("pixels", "labelled pixels", 0))
    rows_of = tuple(
        TableRow({"class": name, "pixels": pixels[name], **scores})
        for name, scores in cells.items()
    )
    return Table(f"IoU of every class: {'; '.join(protocols)}", (*named, *columns), rows_of)


def _classes_of(store: Store, run: RunRecord) -> list[dict[str, Any]]:
    data = store.artifact(run, "per_class.json")
    table = json.loads(data) if data else {"columns": [], "data": []}
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def trust(sweeps: Sequence[SweepRecord]) -> Section:
    """Says how far each label-free criterion may be trusted to choose among the trials."""
    blocks: list[PageBlock] = []
    for sweep in sweeps:
        if found := criterion_trust(map(_as_trial, sweep.trials)):
            rows = tuple(map(trust_row, found))
            blocks.append(Table(f"Choosing without labels: {sweep.protocol}", _TRUST, rows))
    why = Note(
        f"Fewer than {FEWEST_TRIALS} trials have a criterion without labels in the store, and an "
        "unsupervised mIoU to hold it against."
    )
    return Section("trust", "Criteria without labels", tuple(blocks) or (why,))


def _as_trial(run: RunRecord) -> Trial:
    """Describes a run as `criterion_trust` knows trials."""
    number, _ = number_and_seed(run.trial)
    status: Status = "FINISHED" if run.status == "FINISHED" else "FAILED"
    return Trial(number, run.method, {}, {}, 0, status, metrics=run.metrics)


def cost(store: Store, sweeps: Sequence[SweepRecord]) -> Section:
    """Lists what every run took: time, speed and, where the store has a price, money."""
    blocks: list[PageBlock] = [_cost_table(store, sweep) for sweep in sweeps]
    return Section("cost", "Cost", tuple(blocks))


def _cost_table(store: Store, sweep: SweepRecord) -> Table:
    runs = (*sweep.trials, *sweep.seeds)
    speeds = store.histories(runs, "images_per_second")
    scoring = store.histories(runs, "eval_seconds")
    price, rows = gpu_hour_price(sweep.parent), list[TableRow]()
    for run in runs:
        speed, spent, seconds = (
            speeds[run.id].values(),
            scoring[run.id].values(),
            store.seconds(run),
        )
        cells: dict[str, Cell] = {
            "name": run.name,
            "method": run.method,
            "status": run.status.lower(),
            "seconds": seconds,
            "eval_seconds": math.fsum(spent) if spent else None,
            "images_per_second": math.fsum(speed) / len(speed) if speed else None,
        }
        if price is not None and seconds is not None:
            cells["price"] = seconds / 3600 * _gpus(sweep.parent, run) * price
        rows.append(TableRow(cells))
    total: dict[str, Cell] = {
        key: math.fsum(found)
        for key in ("seconds", "eval_seconds", "price")
        if (found := [v for row in rows if isinstance(v := row.cells.get(key), float)])
    }
    # As on the sweep's screen: what a trial had trained already is no run of its own.
    trained = sum(row.cells["seconds"] is not None for row in rows)
    summed = TableRow({"name": f"all {trained} runs", **total}, "best")
    whole = TableRow({"name": "from start to end", "seconds": sweep.parent.seconds}, "best")
    caption = f"Time of every run: {sweep.name}"
    return Table(caption, _COST, (*rows, summed, whole))


def gpu_hour_price(parent: RunRecord) -> float | None:
    """Finds what a GPU costs an hour, where the sweep was told."""
    known = {**parent.params, **parent.tags}
    for key, value in known.items():
        if key.endswith("gpu_hour_price"):
            with contextlib.suppress(TypeError, ValueError):
                return float(value)
    return None


def _gpus(parent: RunRecord, run: RunRecord) -> float:
    """Counts the GPUs that a run held, as its sweep noted, or read off the settings of 0.1.0."""
    if GPUS_TAG in parent.tags:
        return float(parent.tags[GPUS_TAG])
    params = run.params
    workers, share = params.get("resources.num_workers"), params.get("resources.gpus_per_worker")
    if params.get("resources.device") == "cpu" or not isinstance(share, int | float):
        return 0.0
    return float(share) * max(int(workers) if isinstance(workers, int) else 1, 1)
