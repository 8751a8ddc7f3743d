"""What `tune` and `train` do alike: options to a request, a folder, a dry run, or a run."""

import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from rich.markup import escape
from rich.table import Table

from usseg_ray import methods
from usseg_ray.core.calibration import Calibration
from usseg_ray.core.cli import console
from usseg_ray.core.config import flatten, known_keys
from usseg_ray.core.errors import UserError, redacted
from usseg_ray.core.files import is_uri, resolve, sweep_unfinished
from usseg_ray.core.lock import LOCK_FILE, alone_in
from usseg_ray.core.machine import chosen_device
from usseg_ray.data.manifest import load_manifest
from usseg_ray.features.backbones import backbones_kept
from usseg_ray.features.store.rule import size
from usseg_ray.scoring.arrays import ARRAYS
from usseg_ray.sweeps.calibrate import described
from usseg_ray.sweeps.earlier import EVERY, agreed, left_out, offer
from usseg_ray.sweeps.features import CHOSEN_FILE, stored_excerpt
from usseg_ray.sweeps.finals.scores import FINAL_FILE
from usseg_ray.sweeps.k.sharing import trained, trainings
from usseg_ray.sweeps.method_plan import first_settings, kept_origin
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import REQUEST_FILE, Request
from usseg_ray.sweeps.tables import sampled, value
from usseg_ray.trials.cost import Cost, estimate
from usseg_ray.trials.room import lacking_room, run_bytes
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import BASELINES_FILE
from usseg_ray.trials.trial import ENDED, RUNS, TRIAL_FILE, find_run, load_trials, local_copy

MUCH_CUT = 0.2
"""Share of an image outside its centre square from which on it is said."""


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Has SIGTERM end a block as Ctrl-C does, where it runs in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # One that is not Python's own could not be put back.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@_ended_as_by_ctrl_c()
def launch(
    request: Request | None,
    out: str | None,
    resume: str | None,
    *,
    dry_run: bool,
    keys: bool = False,
    again: str = "python -m usseg_ray.tune",
) -> Path:
    """Runs a request, or goes on with an earlier one.

    Args:
        request: What was asked; ignored when resuming.
        out: Folder of the run, or its URI.
        resume: Name, folder or URI of the run to go on with.
        dry_run: Whether to stop after printing the plan.
        keys: Whether to print every resolved key then.
        again: The command that goes on with it, for the last line of one that was broken off;
            empty for no such line.

    Returns:
        The run's folder.

    Raises:
        UserError: Anything is wrong with the request, or another process runs it.
    """
    if keys and not dry_run:
        raise UserError("--keys is for --dry-run, which prints and stops.")
    if resume is not None:
        folder, request = reopened(resume)
        request = request.with_password()
    elif request is None:
        raise UserError("nothing to do: give --method, or --resume NAME")
    else:
        if out is not None and is_uri(out):
            request = request.model_copy(update={"storage": out})
        request.check_secrets()
        folder = new_folder(request, out)
    with backbones_kept():
        plan = make_plan(request, make_data=not dry_run)
        if dry_run:
            print_plan(plan, keys=keys)
            return folder
        each = _run_bytes(plan)
    if resume is None and out is None:
        folder = claimed(folder)
    there = plan.request.storage
    with alone_in(str(folder), "this run"), alone_in(there, "this run") if there else nullcontext():
        sweep_unfinished(folder)
        plan = _begun(plan, folder, each)
        from usseg_ray.sweeps.sweep import run_sweep  # noqa: PLC0415 (a dry run needs no MLflow)

        try:
            run_sweep(plan, folder.absolute(), console)
        except KeyboardInterrupt:
            if again:
                place = redacted(plan.request.storage) or folder
                console.say(f"To go on: {again} --resume {place}")
            raise
    return folder


def _begun(plan: Plan, folder: Path, each: int) -> Plan:
    """Keeps a new run's request in its folder, and says what is about to run, of so many bytes."""
    request = plan.request
    if not request.key:
        key = f"{folder.name}-{uuid.uuid4().hex[:6]}"
        request = request.begun(key, plan.calibration, kept_origin(plan.parts))
        request.save(folder)
        Storage(folder, request.storage).push(REQUEST_FILE)
    console.print(f"[bold]{escape(folder.name)}[/]  {escape(plan.protocol())}", highlight=False)
    said = [*_cut(plan), *(described(plan.calibration) if plan.calibration else ())]
    said += trainings(plan)
    ended = sum(trial.status in ENDED for trial in load_trials(folder))
    to_come = plan.num_trials - ended + plan.final_runs
    said.append(lacking_room(folder, each, to_come))
    if request.search == "optuna" and request.warm_start is None:
        said.append(offer(first_settings(plan.parts), plan.objective))
    if request.warm_start == EVERY:
        said.append(left_out(plan.objective))
    for sentence in filter(None, said):
        console.say(sentence)
    return replace(plan, request=request)


def _run_bytes(plan: Plan) -> int:
    return max(map(run_bytes, plan.first_jobs()))


def _cut(plan: Plan) -> list[str]:
    """Says how much of the images lies outside the centre square, where that is much."""
    if plan.cut <= MUCH_CUT:
        return []
    return [
        f"The centre square leaves out {plan.cut:.0%} of the training images: what is only at "
        "their edges gets no cluster. --set protocol=squashed sees whole ones."
    ]


def reopened(resume: str) -> tuple[Path, Request]:
    """Finds an earlier run; of one that is kept at a URI, fetches what a driver reads.

    Args:
        resume: Name, folder or URI.

    Returns:
        Its folder on this machine, and what was asked.

    Raises:
        UserError: There is no such run, or its folder is another run's.
    """
    if is_uri(resume):
        storage = Storage(local_copy(resume), resume)
        if REQUEST_FILE not in storage.files():
            raise UserError(f"--resume {resume}: no run is kept there ({REQUEST_FILE} is missing).")
        if (storage.folder / REQUEST_FILE).exists():
            known = Request.load(storage.folder).storage
            if _without_slash(known) != _without_slash(resume):
                raise UserError(f"{storage.folder} is another run: start from another folder.")
        storage.fetch(REQUEST_FILE)
        folder, request = storage.folder, Request.load(storage.folder)
    else:
        folder = find_run(resume)
        request = Request.load(folder)
    # With the arrays of those that ended, the others' consensus is measured.
    kept = (CHOSEN_FILE, BASELINES_FILE, FINAL_FILE, TRIAL_FILE, ARRAYS)
    Storage(folder, request.storage).fetch_named(*kept)
    return folder, request


def _without_slash(uri: str) -> str:
    path, mark, options = uri.partition("?")
    return f"{path.rstrip('/')}{mark}{options}"


def new_folder(request: Request, out: str | None) -> Path:
    """Chooses the folder of a new run.

    Args:
        request: What was asked.
        out: Folder or URI, if one was given.

    Raises:
        UserError: There is something already.
    """
    if out is not None:
        folder = local_copy(out) if is_uri(out) else Path(out)
        there = Storage(folder, request.storage).files() if is_uri(out) else []
        here = [path.name for path in folder.glob("*")]
        if {*there, *here} - {LOCK_FILE}:
            raise UserError(
                f"--out {out} is not empty{'' if there else f' ({folder})'}: --resume {out} goes "
                "on with a run, another place starts a new one."
            )
        return folder
    data = Path(request.data.rstrip("/")).name
    first, *others = request.methods
    what = f"{1 + len(others)}-methods" if others else first
    stem = f"{what}-{data}-{datetime.now().astimezone():%m%d-%H%M%S}"
    return RUNS / stem


def claimed(folder: Path) -> Path:
    """Makes the folder of a new run; of commands that start in the same second each has its own.

    Raises:
        UserError: There are too many of that name.
    """
    for place in (folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 100))):
        with suppress(FileExistsError):
            place.mkdir(parents=True)
            return place
    raise UserError(f"{folder}: there are a hundred of that name. Give another with --out.")


def print_plan(plan: Plan, *, keys: bool) -> None:
    """Prints the trials of a plan, their time and cost, and the resolved keys if asked."""
    if plan.is_planned:
        console.print(_trial_table(plan))
    for part in plan.parts if not plan.is_planned else ():
        for key, distribution in part.space.space.items():
            what = f"{part.method}: {key}" if len(plan.parts) > 1 else key
            console.say(f"Optuna draws {what} from {distribution}")
    if plan.calibration is not None:
        _print_calibration(plan.calibration)
    for sentence in (f"Scores: {plan.protocol()}.", *_cut(plan)):
        console.say(sentence)
    _print_cost(plan)
    kept = (plan.num_trials + plan.final_runs) * _run_bytes(plan)
    console.say(f"Disk: about {size(kept)} for checkpoints and pictures.")
    if keys:
        _print_keys(plan)
    more = "" if keys else " --keys adds the resolved keys."
    console.print(f"Dry run: nothing was started.{more}", highlight=False)


def _print_keys(plan: Plan) -> None:
    several = len(plan.parts) > 1
    settings = first_settings(plan.parts)
    common = agreed(list(settings.values())) if several else {}
    if several:
        console.print(_config_table("Resolved config, all methods", common, plan.parts[0].method))
    for name, own in settings.items():
        rest = {key: setting for key, setting in own.items() if key not in common}
        title = f"Resolved config, {name}" if several else "Resolved config"
        console.print(_config_table(title, rest, name))


def _print_calibration(calibration: Calibration) -> None:
    """Says what was calibrated to what, and why."""
    columns = ("method", "setting", "value", "published", "why")
    title = f"Calibrated to the data, effort {calibration.effort}"
    table = Table(*columns, title=title, title_justify="left")
    for method, choices in calibration.choices.items():
        for one in filter(lambda one: one.is_change, choices):
            cells = (method, one.key, value(one.value), value(one.paper), one.rule)
            table.add_row(*map(escape, cells))
    if table.row_count:
        console.print(table)
    for sentence in described(calibration):
        console.say(sentence)


def _print_cost(plan: Plan) -> None:
    filesystem, path = resolve(plan.root)
    if not filesystem.get_file_info(f"{path}/manifest.json").is_file:
        console.print("Time: unknown until the built-in data is made, by the first run.")
        return
    # A dry run describes the built-in data without reading it.
    plan = replace(plan, manifest=load_manifest(plan.root))
    with console.status("Timing a few steps of each method ..."):
        cost = cost_of(plan)
    gpus = plan.config.resources.processes * plan.config.resources.gpus_per_worker
    price = plan.request.gpu_hour_price
    for line in cost.lines(None if price is None else price * gpus):
        console.say(line)


def cost_of(plan: Plan) -> Cost:
    """Times a few steps of each method of a plan, on this machine."""
    device = chosen_device(plan.config.resources.device)
    trials = Counter(method for method, _ in plan.draws.values())
    with stored_excerpt(plan, device) as (timed, store, seconds, disk):
        cost = estimate(timed.first_jobs(), trials, plan.final_runs, store, seconds, trained(plan))
        return replace(cost, disk=disk)


def _config_table(title: str, settings: dict[str, Any], method: str) -> Table:
    meanings = known_keys(methods.get(method).Config)
    table = Table("key", "value", "meaning", title=title, title_justify="left")
    for key, setting in settings.items():
        table.add_row(key, escape(str(setting)), escape(meanings.get(key, "")))
    return table


def _trial_table(plan: Plan) -> Table:
    """Lists the trials; where methods vary different keys, a column holds what each draws."""
    several, keys = len(plan.parts) > 1, list(plan.parts[0].space.space)
    columns = ("method", "K", "settings") if several else ("K", *keys)
    table = Table("trial", *columns, title=f"{plan.num_trials} trials", title_justify="left")
    for name, (method, sample) in plan.draws.items():
        settings = flatten(plan.job(method, sample or {}).config)
        clusters = str(settings["num_clusters"])
        if several:
            table.add_row(name, method, clusters, escape(sampled(sample or {})))
        else:
            table.add_row(name, clusters, *(escape(value(settings[key])) for key in keys))
    return table
