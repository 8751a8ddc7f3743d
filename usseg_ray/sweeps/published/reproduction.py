"""A published table run anew: a folder of runs, each an ordinary one, and their table.

Every run has its request in its folder from the beginning, so that `--resume` goes on with all.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from usseg_ray import methods
from usseg_ray.core import table_text
from usseg_ray.core.cli import console
from usseg_ray.core.config import build_config
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line, is_uri, write_whole
from usseg_ray.core.foreign import markdown_safe
from usseg_ray.core.lock import LOCK_FILE, alone_in
from usseg_ray.core.table import Column, Table, TableRow
from usseg_ray.features.store.rule import size
from usseg_ray.models.find import KEPT
from usseg_ray.prepare.sets import find_set
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.finals import FINALISTS
from usseg_ray.sweeps.launch import claimed, cost_of, launch
from usseg_ray.sweeps.method_plan import assigned_to
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.presets import find_preset
from usseg_ray.sweeps.published.cells import SETS
from usseg_ray.sweeps.published.comparison import SHOWN, comparison
from usseg_ray.sweeps.request import REQUEST_FILE, Request, kept_at
from usseg_ray.trials.cost import spoken
from usseg_ray.trials.rescore import ScoringRequest, evaluate_trial
from usseg_ray.trials.trial import RUNS, SCORES_FILE, Trial, find_run, load_trials

TABLE = "table"
"""Name of the files that hold it, but for what they end in."""


def reproduce_table(
    requests: Mapping[str, Request] | None,
    published: str | None,
    out: str | None,
    resume: str | None,
    *,
    dry_run: bool,
) -> None:
    """Runs what is left of a table's runs, and writes it.

    Args:
        requests: Name of each run and what is asked of it; `None` when resuming.
        published: Name of the published set; `None` when resuming.
        out: Folder of a new table.
        resume: Name or folder of the table to go on with.
        dry_run: Whether to stop after printing the price.

    Raises:
        UserError: Something is wrong with a run, the data or the folder, or another process runs
            it.
    """
    if requests is None:
        folder = find_run(str(resume))
        requests = {path.parent.name: Request.load(path.parent) for path in _requests(folder)}
        if not requests:
            raise UserError(f"--resume {resume}: {folder} holds no run of `reproduce`.")
    else:
        folder, requests = _new(out, str(published)), _shared(requests)
    left = {name: one for name, one in requests.items() if not (folder / name / KEPT).is_dir()}
    plans = dict[str, Plan]()
    for name, request in left.items():
        with _about(name):
            plans[name] = make_plan(request)
            _check_data(plans[name])
    if plans:
        _print_price(plans)
    if dry_run:
        console.say("Dry run: nothing was started.")
        return
    if resume is None and out is None:
        folder = claimed(folder)
    with alone_in(str(folder), "this table"):
        try:
            for name, request in requests.items() if resume is None else ():
                key = f"{folder.name}-{name}-{uuid.uuid4().hex[:6]}"
                request.begun(key).save(folder / name)
            for name in requests:
                _finish(folder / name)
                shown = _write(folder)
        except KeyboardInterrupt:
            console.say(f"To go on: python -m usseg_ray.reproduce --resume {folder}")
            raise
    columns = tuple(column for column in shown.columns if column.key in SHOWN)
    console.print(table_text.as_rich(replace(shown, columns=columns)), highlight=False)
    console.say(f"Table: {folder / TABLE}.md, .csv, .json; runs: {folder}")


def _requests(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{REQUEST_FILE}"))


def _new(out: str | None, published: str) -> Path:
    """Chooses the folder of a new table.

    Raises:
        UserError: It is a URI, or there is something already.
    """
    if out is None:
        return RUNS / f"{published}-table-{datetime.now().astimezone():%m%d-%H%M%S}"
    if is_uri(out):
        raise UserError(f"--out {out}: a table lies in a folder, not at a URI.")
    if any(path.name != LOCK_FILE for path in Path(out).glob("*")):
        raise UserError(
            f"--out {out} is not empty: --resume {out} goes on with a table, another place starts "
            "a new one."
        )
    return Path(out)


def _shared(requests: Mapping[str, Request]) -> dict[str, Request]:
    """Leaves each run those `method.*` that its method has, as a sweep of several methods does."""
    names = list(dict.fromkeys(name for one in requests.values() for name in one.methods))
    return {
        name: one.model_copy(
            update={"assigned": assigned_to(names, one.assigned)[next(iter(one.methods))]}
        )
        for name, one in requests.items()
    }


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Puts the name of a run before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _check_data(plan: Plan) -> None:
    """Refuses data whose scores would not compare.

    Raises:
        UserError: It has other classes than the published set, or nothing to score on.
    """
    known = {ours: official for official, ours in SETS.items()}
    published = known[find_preset(str(plan.request.preset)).data]
    if plan.manifest.classes != find_set(published).classes:
        raise UserError(
            f"--data {plan.request.data} has other classes than {published}. "
            f"Prepare it: python -m usseg_ray.prepare --dataset {published} --source FOLDER"
        )
    if not plan.has_test:
        raise UserError(f"--data {plan.request.data} has no labelled split `test`.")


def _print_price(plans: Mapping[str, Plan]) -> None:
    """Says what the runs that are left will take, each timed by a few steps."""
    rows, seconds, disk = list[TableRow](), 0.0, 0
    for name, plan in plans.items():
        cells = {"name": name, "protocol": plan.config.protocol}
        with _about(name), console.status(f"Timing a few steps of {name} ..."):
            try:
                cost = cost_of(plan)
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001 (what a run may raise, it says itself)
                rows.append(TableRow(cells | {"time": f"unknown: {first_line(error)[:60]}"}))
                continue
        seconds, disk = seconds + cost.total, disk + cost.disk
        rows.append(TableRow(cells | {"time": spoken(cost.total), "disk": size(cost.disk)}))
    columns = (
        Column("name", "run", whole=True),
        Column("time", "time"),
        Column("disk", "features", whole=True),
        Column("protocol", "scored under"),
    )
    console.print(table_text.as_rich(Table("", columns, tuple(rows))), highlight=False)
    console.say(
        f"{len(plans)} runs: about {spoken(seconds)} here one after the other, refiners not "
        f"counted, and at most {size(disk)} of stored features; runs on one backbone share theirs."
    )


def _finish(folder: Path) -> None:
    """Runs what is left of one run, and scores each of its seeds with the protocol's refiners."""
    if not (folder / KEPT).is_dir():
        launch(None, None, str(folder.absolute()), dry_run=False, again="")
    for home in (folder, folder / FINALISTS):
        for trial in load_trials(home):
            if trial.checkpoint is not None and trial.status == "FINISHED":
                _refine(trial, home / trial.name, folder.name)


def _refine(trial: Trial, folder: Path, name: str) -> None:
    config = build_config(methods.get(trial.method).Config, [trial.settings])
    asked = ScoringRequest(device=config.resources.device)
    refined = find_protocol(config.protocol).refinements
    if refined and not list(folder.glob(f"evaluations/*/{SCORES_FILE}")):
        with console.status(f"Scoring {name}, {trial.name} with refiners ..."):
            evaluate_trial(str(folder.absolute()), asked, kept_at)


def _write(folder: Path) -> Table:
    """Writes the table of the runs so far."""
    table = comparison({path.parent.name: path.parent for path in _requests(folder)})
    caption, lines = markdown_safe(table.caption), table_text.as_markdown(table)
    write_whole(folder / f"{TABLE}.md", "\n".join([caption, "", *lines, ""]))
    write_whole(folder / f"{TABLE}.csv", table_text.as_csv([table]))
    records = {"tables": [table_text.as_records(table)]}
    write_whole(folder / f"{TABLE}.json", json.dumps(records, indent=1))
    return table
