"""A published table run anew: a folder of runs, each an ordinary one, and their table.

Every run has its request in its folder from the beginning, so that `--resume` goes on with all.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from usseg_ray import methods
from usseg_ray.core import table_text
from usseg_ray.core.cli import console
from usseg_ray.core.config import build_config, flatten
from usseg_ray.core.errors import UserError, about
from usseg_ray.core.files import first_line, is_uri, write_whole
from usseg_ray.core.foreign import markdown_safe
from usseg_ray.core.lock import LOCK_FILE, alone_in
from usseg_ray.core.machine import chosen_device
from usseg_ray.core.table import Column, Table, TableRow
from usseg_ray.features.store.rule import size
from usseg_ray.models.find import KEPT
from usseg_ray.prepare.sets import find_set
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.settings.assigned import assigned_to
from usseg_ray.sweeps.earlier import differing
from usseg_ray.sweeps.launch import claimed, cost_of, launch
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.presets import find_preset
from usseg_ray.sweeps.published.cells import SETS
from usseg_ray.sweeps.published.comparison import SHOWN, comparison, runs_of
from usseg_ray.sweeps.request import REQUEST_FILE, Request, kept_at
from usseg_ray.trials.cost import spoken
from usseg_ray.trials.refining import RefiningForecast
from usseg_ray.trials.rescore import ScoringRequest, evaluate_trial
from usseg_ray.trials.tasks import load_baselines, save_baselines
from usseg_ray.trials.trial import ENDED, FINALISTS, RUNS, SCORES_FILE, find_run, load_trials

TABLE = "table"
"""Name of the files that hold it, but for what they end in."""

_FELT = ("seed", "train.eval_batch_size", "resources.precision")
"""Settings that runs which compare may differ in, and which baselines depend on."""


@dataclass(frozen=True)
class _Left:
    """What is left of a run.

    Attributes:
        name: Of the run.
        plan: Its plan.
        trained: Whether all its seeds are.
        unrefined: Seeds that are to be scored with refiners.
    """

    name: str
    plan: Plan
    trained: bool
    unrefined: int


def reproduce_table(
    requests: Mapping[str, Request] | None,
    published: str | None,
    out: str | None,
    resume: str | None,
    *,
    dry_run: bool,
) -> int:
    """Runs what is left of a table's runs, and writes it; a run that fails leaves the others alone.

    Args:
        requests: Name of each run and what is asked of it; `None` when resuming.
        published: Name of the published set; `None` when resuming.
        out: Folder of a new table.
        resume: Name or folder of the table to go on with.
        dry_run: Whether to stop after printing the price.

    Returns:
        How many runs failed; each is said with its reason, and tried again when resumed.

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
    left = _left(folder, requests)
    if left:
        _print_price(left)
    if dry_run:
        console.say("Dry run: nothing was started.")
        return 0
    if resume is None and out is None:
        folder = claimed(folder)
    again = f"python -m usseg_ray.reproduce --resume {folder}"
    faults = dict[str, str]()
    with alone_in(str(folder), "this table"):
        try:
            for name, request in requests.items() if resume is None else ():
                key = f"{folder.name}-{name}-{uuid.uuid4().hex[:6]}"
                request.begun(key).save(folder / name)
            shown = _write(folder, faults)
            for one in left:
                if fault := _fault(folder, one, requests[one.name]):
                    faults[one.name] = fault
                shown = _write(folder, faults)
        except KeyboardInterrupt:
            console.say(f"To go on: {again}")
            raise
    columns = tuple(column for column in shown.columns if column.key in SHOWN)
    console.print(table_text.as_rich(replace(shown, columns=columns)), highlight=False)
    console.say(f"Table: {folder / TABLE}.md, .csv, .json; runs: {folder}")
    for name, fault in faults.items():
        console.say(f"{name} failed: {fault}")
    if faults:
        console.say(f"{len(faults)} of {len(requests)} runs failed. To try them again: {again}")
    return len(faults)


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


def _left(folder: Path, requests: Mapping[str, Request]) -> list[_Left]:
    """Plans and checks the runs that lack something."""
    left = list[_Left]()
    for name, request in requests.items():
        trained, unrefined = _is_trained(folder / name, request), _unrefined(folder / name, request)
        if trained and not unrefined:
            continue
        with about(name):
            left.append(_Left(name, make_plan(request), trained, unrefined))
            _check_data(left[-1].plan)
    return left


def _print_price(left: list[_Left]) -> None:
    """Says what the runs that are left will take, each timed by a few steps and images."""
    rows, seconds, disk = list[TableRow](), 0.0, 0
    forecast: RefiningForecast | None = None
    for one in left:
        plan, cells = one.plan, {"name": one.name, "protocol": one.plan.config.protocol}
        with about(one.name), console.status(f"Timing a few steps of {one.name} ..."):
            try:
                device = chosen_device(plan.config.resources.device)
                if forecast is None or forecast.device != device:
                    forecast = RefiningForecast(device)
                refining, asked = 0.0, find_protocol(plan.config.protocol).refinements
                if one.unrefined:
                    (job,) = plan.on(device, "", {}).first_jobs()
                    refining = one.unrefined * forecast.seconds(job, asked)
                cost = None if one.trained else cost_of(plan)
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001 (what a run may raise, it says itself)
                rows.append(TableRow(cells | {"time": f"unknown: {first_line(error)[:60]}"}))
                continue
        if cost is not None:
            seconds, disk = seconds + cost.total, disk + cost.disk
            cells |= {"time": spoken(cost.total), "disk": size(cost.disk)}
        seconds += refining
        rows.append(TableRow(cells | ({"refining": spoken(refining)} if refining else {})))
    columns = (
        Column("name", "run", whole=True),
        Column("time", "time"),
        Column("refining", "refiners"),
        Column("disk", "features", whole=True),
        Column("protocol", "scored under"),
    )
    console.print(table_text.as_rich(Table("", columns, tuple(rows))), highlight=False)
    console.say(
        f"{len(left)} runs: about {spoken(seconds)} here one after the other, refiners counted, "
        f"and at most {size(disk)} of stored features; runs on one backbone share theirs."
    )


def _adopt_baselines(folder: Path, left: _Left) -> None:
    """Gives a run the baselines of one before it in the table, where its own would be the same."""
    home = folder / left.name
    if load_baselines(home) is not None:
        return
    own = flatten(left.plan.first_jobs()[0].config)
    for place in _requests(folder):
        found, trials = load_baselines(place.parent), load_trials(place.parent)
        others = trials[0].settings if trials else {}
        same = not differing(own, others) and all(own[k] == others.get(k) for k in _FELT)
        if found is not None and same:
            save_baselines(found, home)
            return


def _fault(folder: Path, left: _Left, request: Request) -> str:
    """Runs what is left of a run; says why it did not come to its end, if it did not."""
    home = folder / left.name
    try:
        _adopt_baselines(folder, left)
        _finish(home, request)
    except Exception as error:  # noqa: BLE001 (whatever befell it, the others go on)
        return first_line(error)
    if _is_trained(home, request) and not _unrefined(home, request):
        return ""
    failed = next((one for one in runs_of(home) if one.status not in ENDED), None)
    return "it left no scores" if failed is None else f"{failed.name}, {failed.reason}"


def _finish(folder: Path, request: Request) -> None:
    """Runs what is left of one run, and scores each of its seeds with the protocol's refiners."""
    if not _is_trained(folder, request):
        launch(None, None, str(folder.absolute()), dry_run=False, again="")
    for trial in runs_of(folder) if _unrefined(folder, request) else ():
        home = folder / trial.place
        if trial.checkpoint is not None and trial.status == "FINISHED" and not _is_refined(home):
            config = build_config(methods.get(trial.method).Config, [trial.settings])
            asked = ScoringRequest(device=config.resources.device)
            with console.status(f"Scoring {folder.name}, {trial.name} with refiners ..."):
                evaluate_trial(str(home.absolute()), asked, kept_at)


def _is_trained(folder: Path, request: Request) -> bool:
    """Whether each seed of a run came to its end and is scored, and its model is kept."""
    scored = list(folder.glob(f"{FINALISTS}/*/test/{SCORES_FILE}"))
    ended = [one for one in runs_of(folder) if one.status == "FINISHED"]
    return min(len(scored), len(ended)) >= request.seeds and (folder / KEPT).is_dir()


def _unrefined(folder: Path, request: Request) -> int:
    """Counts the seeds of a run that are to be scored with the protocol's refiners."""
    if not find_protocol(request.assigned["protocol"]).refinements:
        return 0
    ended = [one for one in runs_of(folder) if one.status == "FINISHED"]
    return request.seeds - sum(_is_refined(folder / one.place) for one in ended)


def _is_refined(folder: Path) -> bool:
    return any(folder.glob(f"evaluations/*/{SCORES_FILE}"))


def _write(folder: Path, faults: Mapping[str, str]) -> Table:
    """Writes the table of the runs so far, with what befell some of them."""
    table = comparison({path.parent.name: path.parent for path in _requests(folder)}, faults)
    caption, lines = markdown_safe(table.caption), table_text.as_markdown(table)
    write_whole(folder / f"{TABLE}.md", "\n".join([caption, "", *lines, ""]))
    write_whole(folder / f"{TABLE}.csv", table_text.as_csv([table]))
    records = {"tables": [table_text.as_records(table)]}
    write_whole(folder / f"{TABLE}.json", json.dumps(records, indent=1))
    return table
