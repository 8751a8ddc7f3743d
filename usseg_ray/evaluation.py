"""Scores a trained trial again, in this process and without Ray: what `evaluate` does."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from usseg_ray import methods
from usseg_ray.beside import BASELINES_FILE
from usseg_ray.config import UserError, build_config
from usseg_ray.data.sources import open_data
from usseg_ray.job import Job
from usseg_ray.protocols import protocol_name
from usseg_ray.record import draw
from usseg_ray.scoring import ground_truth
from usseg_ray.trials import (
    TRIAL_FILE,
    Trial,
    best_of_each,
    find_run,
    load_trial,
    load_trials,
)
from usseg_ray.worker import score_split

SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation left behind.

    Attributes:
        trial: The trial that was scored.
        protocol: Under what.
        metrics: Scores by name, in percent.
        baselines: Scores of the baselines on the same images; empty where the sweep has none.
        folder: Holds `scores.json`, `per_class.json`, `confusion.csv` and `pictures/`.
    """

    trial: Trial
    protocol: str
    metrics: dict[str, float]
    baselines: dict[str, float]
    folder: Path


def evaluate_trial(
    place: str, *, split: str | None = None, data: str | None = None, device: str | None = None
) -> Evaluated:
    """Scores a trial on a split.

    Args:
        place: A trial's folder, or a sweep's folder or name, of which the best trial is taken.
        split: The split; the test split of the trial's config if unset.
        data: Another prepared set; the one that the trial learnt from if unset.
        device: `cpu` or `cuda`; the GPU if there is one and this is unset or `auto`.

    Returns:
        The scores and where they lie.

    Raises:
        UserError: There is no such trial, data or split, the trial has no checkpoint, or the split
            no labels.
    """
    home = find_trial(place)
    trial = load_trial(home)
    overrides = {"data.name": data} if data else {}
    config = build_config(methods.get(trial.method).Config, [trial.settings, overrides])
    root, manifest = open_data(config.data)
    split = split or config.data.test_split
    manifest.shards_of(split)
    if not manifest.splits[split].labelled:
        raise UserError(f"split {split!r} of {manifest.name!r} has no labels to score against.")
    settings = {**trial.settings, **overrides}
    where = _device(device)
    job = Job(trial.method, settings, root, where, reading="")
    folder = home / "evaluations" / f"{manifest.name}-{split}"
    metrics = score_split(job, str(_checkpoint(home, trial)), str(folder), split)
    protocol = protocol_name(config, manifest.name, split)
    caption = f"{trial.name} ({trial.method}): {protocol}, unsup_miou {metrics['unsup_miou']:.1f}"
    draw(folder, ground_truth(manifest), manifest.palette, caption)
    found = {"protocol": protocol, "metrics": metrics}
    (folder / SCORES_FILE).write_text(json.dumps(found, indent=1))
    return Evaluated(trial, protocol, metrics, _beside(home, data, split), folder)


def find_trial(place: str) -> Path:
    """Finds a trial's folder by itself, or as the best trial of a sweep.

    Raises:
        UserError: There is no such trial or sweep, or the sweep has no trial with a score.
    """
    folder = find_run(place)
    if (folder / TRIAL_FILE).is_file():
        return folder
    best = best_of_each(load_trials(folder))
    if not best:
        raise UserError(f"{folder}: no trial with a score here. Name a trial's folder.")
    return folder / best[0].name


def _beside(home: Path, data: str | None, split: str) -> dict[str, float]:
    """Reads the baselines that the trial's sweep computed, where they are of the same images."""
    file = home.parent / BASELINES_FILE
    if data is not None or not file.exists():
        return {}
    found: dict[str, float] = json.loads(file.read_text()).get(split, {})
    return found


def _checkpoint(home: Path, trial: Trial) -> Path:
    """Finds the last checkpoint, also where the sweep's folder was moved."""
    if trial.checkpoint is None:
        raise UserError(f"{home}: the trial has no checkpoint ({trial.reason or trial.status}).")
    named = Path(trial.checkpoint)
    for folder in (named, home / named.parent.name / named.name):
        if folder.is_dir():
            return folder
    raise UserError(f"{home}: its checkpoint {named} is gone.")


def _device(asked: str | None) -> str:
    cuda = torch.cuda.is_available()
    if asked == "cuda" and not cuda:
        raise UserError("--device cuda: this machine has no GPU. Use --device cpu.")
    if asked not in (None, "auto", "cpu", "cuda"):
        raise UserError(f"--device {asked}: one of auto, cpu and cuda.")
    return asked if asked in ("cpu", "cuda") else ("cuda" if cuda else "cpu")
