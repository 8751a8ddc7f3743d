"""Scores a trained trial again, in this process and without Ray: what `evaluate` does."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from usseg_ray import methods
from usseg_ray.core.config import Config, MethodConfig, build_config
from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import chosen_device
from usseg_ray.data.library import open_data
from usseg_ray.engine.baselines import compute_baselines
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Watch
from usseg_ray.pictures.trial_page import draw
from usseg_ray.scoring.anyup_file import anyup_digest, open_anyup
from usseg_ray.scoring.crf import crf_kind, open_crf
from usseg_ray.scoring.evaluation import ground_truth
from usseg_ray.scoring.prediction import Refiners
from usseg_ray.scoring.protocols import Refinement, find_protocol, protocol_settings, stamp
from usseg_ray.settings import BLIND
from usseg_ray.trials.job import Job, Placement
from usseg_ray.trials.storage import Storage, below
from usseg_ray.trials.tasks import load_baselines
from usseg_ray.trials.trial import (
    TRIAL_FILE,
    SplitScores,
    Trial,
    best_of_each,
    find_run,
    load_trial,
    load_trials,
)
from usseg_ray.trials.worker import score_split


@dataclass(frozen=True)
class ScoringRequest:
    """How a trial is to be scored.

    Attributes:
        split: The split; the test split of the trial's config if unset.
        data: Another prepared set; the one that the trial learnt from if unset.
        protocol: Another protocol; the trial's own if unset.
        refinements: Combinations such as `flip+crf`; the protocol's if unset.
        device: `cpu` or `cuda`; the GPU if there is one and this is unset or `auto`.
    """

    split: str | None = None
    data: str | None = None
    protocol: str | None = None
    refinements: tuple[Refinement, ...] | None = None
    device: str | None = None


@dataclass(frozen=True)
class ScoringRecord:
    """What an evaluation left behind.

    Attributes:
        trial: The trial that was scored.
        protocol: Under what, in words; see `protocols.stamp`.
        headline: Name of the score that counts.
        refinements: What was scored beside the plain prediction.
        metrics: Scores by name, in percent.
        baselines: Scores of baselines on the same images under the same protocol.
        crf: Which CRF it was (see `crf.crf_kind`); empty without one.
        anyup: sha256 of AnyUp's weights; empty without it.
        folder: Holds `scores.json`, `per_class.json`, `confusion.csv` and `pictures/`.
    """

    trial: Trial
    protocol: str
    headline: str
    refinements: tuple[Refinement, ...]
    metrics: dict[str, float]
    baselines: dict[str, float]
    crf: str
    anyup: str
    folder: Path


def evaluate_trial(
    place: str, asked: ScoringRequest, kept_at: Callable[[Path], str], watch: Watch | None = None
) -> ScoringRecord:
    """Scores a trial on a split.

    Args:
        place: A trial's folder, or a sweep's folder or name, of which the best trial is taken.
        asked: Split, data, protocol and refinements.
        kept_at: Says at which URI a sweep's folder is kept; empty for the folder alone.
        watch: Is told how far it is.

    Returns:
        The scores and where they lie.

    Raises:
        UserError: There is no such trial, data, split or protocol, they do not fit together, the
            trial has no checkpoint, or the split no labels.
    """
    home = find_trial(place)
    trial = load_trial(home)
    method = methods.get(trial.method)
    layers = [trial.settings, method.defaults.trained, _overrides(asked)]
    config = build_config(method.Config, layers)
    data = OpenSet(*open_data(config.data))
    manifest = data.manifest
    split = asked.split or config.data.test_split
    manifest.shards_of(split)
    if not manifest.splits[split].labelled:
        raise UserError(f"split {split!r} of {manifest.name!r} has no labels to score against.")
    protocol = find_protocol(config.protocol)
    device = chosen_device(asked.device)
    job = Job(trial.method, config, data.root, Placement(device))
    protocol.check(job.num_clusters, len(manifest.classes))
    chosen = protocol.refinements if asked.refinements is None else asked.refinements
    _check_refinements(chosen, protocol.crop)
    needs = methods.get(trial.method).needs(config.method)
    anyup = open_anyup(chosen, needs, torch.device(device))
    folder = home / "evaluations" / f"{manifest.name}-{split}-{protocol.name}"
    with open_crf(device) if any("crf" in one for one in chosen) else nullcontext() as crf:
        refining, last = Refiners(chosen, crf, anyup), str(_checkpoint(home, trial, kept_at))
        metrics = score_split(job, last, str(folder), split, refining, watch)
    named = stamp(config, manifest.name, split)
    caption = f"{trial.name} ({trial.method}): {named}, unsup_miou {metrics['unsup_miou']:.1f}"
    draw(folder, ground_truth(manifest), manifest.palette, caption)
    baselines = _baselines(home, trial, config, data, split, device)
    kind = crf_kind(device) if crf else ""
    digest = anyup_digest() if anyup else ""
    SplitScores(trial.name, trial.method, named, metrics, baselines, kind, digest).save(folder)
    return ScoringRecord(
        trial, named, protocol.headline, chosen, metrics, baselines, kind, digest, folder
    )


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


def _overrides(asked: ScoringRequest) -> dict[str, Any]:
    found: dict[str, Any] = {"data.name": asked.data} if asked.data else {}
    if asked.protocol:
        found |= {"protocol": asked.protocol} | protocol_settings(asked.protocol)
    return found


def _check_refinements(refinements: tuple[Refinement, ...], crop: str) -> None:
    if crop != "whole" and any("sliding" in refinement for refinement in refinements):
        raise UserError(
            "--refine sliding: this protocol shows one square of each image, so that there is "
            "nothing to slide over. Use --protocol full-resolution."
        )


def _baselines(
    home: Path,
    trial: Trial,
    config: Config[MethodConfig],
    data: OpenSet,
    split: str,
    device: str,
) -> dict[str, float]:
    """Reads the baselines of the trial's sweep, where they are of the same; else scores floors."""
    own = build_config(methods.get(trial.method).Config, [trial.settings])
    same = (own.protocol, own.data) == (config.protocol, config.data)
    found = load_baselines(home.parent) if same else None
    if found and found.get(split):
        return found[split]
    where = torch.device(device)
    return compute_baselines(config, data, where, splits=(split,), names=BLIND)[split]


def _checkpoint(home: Path, trial: Trial, kept_at: Callable[[Path], str]) -> Path:
    """Finds the last checkpoint, also where the sweep's folder was moved or is kept at a URI."""
    if trial.checkpoint is None:
        raise UserError(f"{home}: the trial has no checkpoint ({trial.reason or trial.status}).")
    named = Path(trial.checkpoint)
    here = home / named.parent.name / named.name
    if not here.is_dir() and (uri := kept_at(home.parent)):
        Storage(home, below(uri, home.name)).fetch(f"{named.parent.name}/{named.name}")
    for folder in (here, named):  # of a copy its own
        if folder.is_dir():
            return folder
    raise UserError(f"{home}: its checkpoint {named} is gone.")
