"""What earlier sweeps of the same data found: trials that `--search optuna` can learn from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usseg_ray.config import UserError, flatten
from usseg_ray.sweeps.comparable import differing
from usseg_ray.sweeps.plan import MethodPlan
from usseg_ray.trials import RUNS, Trial, find_run, load_trials

EVERY = "all"
"""Names every earlier sweep under ./runs that compares."""

Settings = Mapping[str, Mapping[str, Any]]


def known_trials(names: str, parts: list[MethodPlan], objective: str) -> tuple[Trial, ...]:
    """Reads the trials of earlier sweeps whose scores may stand beside those of a new one.

    Args:
        names: Runs with commas between them, or `all`.
        parts: The methods of the new sweep.
        objective: What its trials are ranked by.

    Returns:
        Trials of these methods on the same data, backbone and protocol.

    Raises:
        UserError: A run is not there, or nothing compares.
    """
    settings = _settings(parts)
    if names == EVERY:
        found = [trial for trials in _earlier(settings, objective).values() for trial in trials]
    else:
        runs = [find_run(name) for name in names.split(",")]
        found = [trial for run in runs for trial in _comparable(run, settings, objective)]
    if not found:
        raise UserError(
            f"--warm-start {names}: no trial has a score of {', '.join(settings)} by {objective} "
            "on the same data, backbone and protocol."
        )
    return tuple(found)


def offer(parts: list[MethodPlan], objective: str) -> str:
    """Says which earlier sweeps a new one could learn from; empty where there is none."""
    found = _earlier(_settings(parts), objective)
    if not found:
        return ""
    runs = ", ".join(f"{name} ({len(trials)} trials)" for name, trials in found.items())
    return f"Earlier sweeps of this data: {runs}. --warm-start {EVERY} learns from them."


def _settings(parts: list[MethodPlan]) -> Settings:
    return {part.method: flatten(part.config) for part in parts}


def _earlier(settings: Settings, objective: str) -> dict[str, list[Trial]]:
    found = {}
    for folder in sorted(path for path in RUNS.glob("*") if path.is_dir()):
        try:
            trials = _comparable(folder, settings, objective)
        except UserError:  # of another version
            continue
        if trials:
            found[folder.name] = trials
    return found


def _comparable(sweep: Path, settings: Settings, objective: str) -> list[Trial]:
    return [
        trial
        for trial in load_trials(sweep)
        if objective in trial.metrics
        and trial.method in settings
        and not differing(settings[trial.method], trial.settings)
    ]
