"""Which runs may be compared, and what earlier sweeps of the same data found.

What methods of one sweep do not agree in is theirs to choose; the rest must be equal, in it and in
the trials of earlier sweeps that `--search optuna` learns from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usseg_ray.core.errors import UserError
from usseg_ray.scoring.objective import MIOU
from usseg_ray.trials.trial import RUNS, Trial, find_run, load_trials

EVERY = "all"
"""Names every earlier sweep under ./runs that compares."""

MethodSettings = Mapping[str, Mapping[str, Any]]


def known_trials(names: str, settings: MethodSettings, objective: str) -> tuple[Trial, ...]:
    """Reads the trials of earlier sweeps whose scores may stand beside those of a new one.

    Args:
        names: Runs with commas between them, or `all`.
        settings: Of the new sweep: method -> flattened settings of its first trial.
        objective: What its trials are ranked by.

    Returns:
        Trials of these methods on the same data, backbone and protocol.

    Raises:
        UserError: A run is not there, or nothing compares; or labels picked a named run's trials,
            and the new sweep is to do without.
    """
    if names != EVERY and (picked := _picked_by_labels(names, objective)):
        raise UserError(
            f"--warm-start {names}: labels picked the trials of {', '.join(picked)}, and "
            f"{objective} is to do without: leave them out, or --objective {MIOU}."
        )
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


def _picked_by_labels(names: str, objective: str) -> list[str]:
    """Finds named runs that a sweep without labels must not learn from."""
    return [
        name
        for name in names.split(",")
        if any(not _may_teach(trial, objective) for trial in load_trials(find_run(name)))
    ]


def _may_teach(trial: Trial, objective: str) -> bool:
    """Whether a sweep by an objective may learn from a trial: without labels, not by labels."""
    return objective == MIOU or trial.objective != MIOU


def left_out(objective: str) -> str:
    """Says that `--warm-start all` passes over what labels picked; empty where it does not."""
    if objective == MIOU:
        return ""
    return f"--warm-start {EVERY} leaves out sweeps ranked by labels: {objective} does without."


def offer(settings: MethodSettings, objective: str) -> str:
    """Says which earlier sweeps a new one could learn from; empty where there is none."""
    found = _earlier(settings, objective)
    if not found:
        return ""
    runs = ", ".join(f"{name} ({len(trials)} trials)" for name, trials in found.items())
    return f"Earlier sweeps of this data: {runs}. --warm-start {EVERY} learns from them."


def _earlier(settings: MethodSettings, objective: str) -> dict[str, list[Trial]]:
    found = {}
    for folder in sorted(path for path in RUNS.glob("*") if path.is_dir()):
        try:
            trials = _comparable(folder, settings, objective)
        except UserError:  # of another version
            continue
        if trials:
            found[folder.name] = trials
    return found


def _comparable(sweep: Path, settings: MethodSettings, objective: str) -> list[Trial]:
    return [
        trial
        for trial in load_trials(sweep)
        if objective in trial.metrics
        and _may_teach(trial, objective)
        and trial.method in settings
        and not differing(settings[trial.method], trial.settings)
    ]


FREE_GROUPS = ("method.", "train.")

FREE_KEYS = (
    "num_clusters",
    "clusters_per_class",
    "data.train_size",
    "data.crop_scale",
    "data.flip",
    "data.crops",
    "data.crop_ratios",
    "data.crop_filter",
    "data.crop_jpeg",
    "data.view_draws",
    "data.shuffle_window",
    "data.keep_mib",
)

"""With `FREE_GROUPS`, what the methods of a sweep may differ in; the rest is the protocol, the
backbone and the machine's shares, without which scores could not stand in one column."""


def is_free(key: str) -> bool:
    """Says whether the methods of a sweep may differ in a dotted key."""
    return key.startswith(FREE_GROUPS) or key in FREE_KEYS


def agreed(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Lists what several methods' flattened settings agree in.

    Keys of `method` are left out where there are several: of another method they mean another
    thing.
    """
    first, *others = settings
    return {
        key: value
        for key, value in first.items()
        if not (others and key.startswith("method."))
        and all(key in other and other[key] == value for other in others)
    }


def differing(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Lists the keys that keep two runs from being compared, whatever their seeds and machines.

    Args:
        settings: Flattened settings of one.
        others: Of the other, whose keys are looked at.
    """
    return [
        key
        for key, value in others.items()
        if not (is_free(key) or key.startswith("resources.") or key == "seed")
        and settings.get(key) != value
    ]
