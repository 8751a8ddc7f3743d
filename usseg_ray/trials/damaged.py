"""What a resumed sweep does about damaged files of its trials: sets them aside, and goes on.

A record is written anew by a trial that goes on, from its last checkpoint that is whole; which one
that is `trials.contexts` finds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console

from usseg_ray.core.records import DamagedError
from usseg_ray.engine.checkpoint import STATE_FILE, check_whole
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import CHECKPOINTS, TRIAL_FILE, Trial, load_trial


def set_records_aside(
    folder: Path, draws: Mapping[str, tuple[str, object]], console: Console
) -> None:
    """Sets damaged records of trials aside, but for those that alone know what was drawn.

    Args:
        folder: That has the trials' folders.
        draws: Trial -> method and what it draws, `None` where that is open; trials that are not
            in it are planned from others.
        console: Where to say so.
    """
    for file in sorted(folder.glob(f"trial_*/{TRIAL_FILE}")):
        name = file.parent.name
        try:
            load_trial(file.parent)
        except DamagedError:
            if name in draws and draws[name][1] is None:
                raise
            file.replace(file.with_name(f".damaged-{TRIAL_FILE}"))
            _say(console, f"{file} is damaged and set aside: {name} goes on from its checkpoint.")


def to_go_on(trials: Iterable[Trial], home: Storage, console: Console) -> list[Trial]:
    """Finds finished trials whose last checkpoint is damaged or gone, and notes that they go on.

    Args:
        trials: Those whose checkpoints are needed.
        home: That has the trials' folders.
        console: Where to say so.

    Returns:
        The trials to run.
    """
    found = []
    for trial in trials:
        if trial.status != "FINISHED" or trial.checkpoint is None:
            continue
        place = f"{trial.name}/{CHECKPOINTS}/{Path(trial.checkpoint).name}"
        home.fetch(place)
        try:
            check_whole(home.folder / place / STATE_FILE, "")
        except (DamagedError, FileNotFoundError):
            trial.status = "RUNNING"
            trial.save(home.folder)
            found.append(trial)
            _say(console, f"{home.folder / place} is damaged: {trial.name} goes on from before it.")
    return found


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
