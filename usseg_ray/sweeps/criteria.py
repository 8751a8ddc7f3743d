"""Criteria that need a whole sweep: its trials' consensus, and how far to trust each criterion.

What many methods find in an image is likelier to be there than what one of them finds.

Where the selection split has labels, both rankings are there to compare. What is learnt on data
with labels says which criterion to choose by on similar data without.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from usseg_ray.core.records import DamagedError, write_json
from usseg_ray.data.plans import spread
from usseg_ray.scoring.arrays import read_evaluation
from usseg_ray.scoring.label_free import agreement
from usseg_ray.scoring.objective import CONSENSUS, CRITERIA, MIOU
from usseg_ray.trials.trial import ENDED, Trial

CRITERIA_FILE = "criteria.json"

MOST_PEERS = 64
"""Trials of a method that others are compared with; of more, these lie evenly over them."""

FEWEST_TRIALS = 4

"""Ranks of fewer say nothing."""


@dataclass(frozen=True)
class Trust:
    """How well one criterion ranked the trials of a sweep.

    Attributes:
        criterion: Its name.
        trials: Trials that have both it and unsupervised mIoU.
        spearman: Rank correlation of the two; `None` where either is the same for all trials.
        chosen: Name of the trial that is best by the criterion; of equal ones the first.
        equal: How many others are as good by the criterion.
        miou: Unsupervised mIoU of that trial, percent; of equal ones their mean.
        regret: How far that is below the best of these trials, points.
        random_regret: How far a trial drawn at random is below it on average, points.
    """

    criterion: str
    trials: int
    spearman: float | None
    chosen: str
    equal: int
    miou: float
    regret: float
    random_regret: float


def choice(trust: Trust) -> str:
    """Names what a criterion chooses, and counts others that it finds equal."""
    return trust.chosen + (f" (+{trust.equal})" if trust.equal else "")


def criterion_trust(trials: Iterable[Trial]) -> list[Trust]:
    """Compares each criterion's ranking of trials with that by unsupervised mIoU.

    Args:
        trials: Of one sweep; those that did not end are left out.

    Returns:
        Criteria that `FEWEST_TRIALS` trials have, the least regret first.
    """
    ended = [trial for trial in trials if trial.status in ENDED and MIOU in trial.metrics]
    found = []
    for criterion in (*CRITERIA, CONSENSUS):
        having = [trial for trial in ended if criterion in trial.metrics]
        if len(having) >= FEWEST_TRIALS:
            found.append(_trust(criterion, having))
    return sorted(found, key=lambda trust: (trust.regret, -(trust.spearman or 0.0)))


def _trust(criterion: str, trials: list[Trial]) -> Trust:
    from scipy.stats import spearmanr  # noqa: PLC0415 (slow to import: not for a dry run)

    values = [trial.metrics[criterion] for trial in trials]
    scores = [trial.metrics[MIOU] for trial in trials]
    chosen = [trial for trial in trials if trial.metrics[criterion] == max(values)]
    miou = fmean(trial.metrics[MIOU] for trial in chosen)
    varied = min(len(set(values)), len(set(scores))) > 1
    best = max(scores)
    return Trust(
        criterion=criterion,
        trials=len(trials),
        spearman=float(spearmanr(values, scores).statistic) if varied else None,
        chosen=min(trial.name for trial in chosen),
        equal=len(chosen) - 1,
        miou=miou,
        regret=best - miou,
        random_regret=best - sum(scores) / len(scores),
    )


def save_trust(found: list[Trust], folder: Path) -> None:
    """Writes `criteria.json` into a sweep's folder; nothing where nothing was found."""
    if found:
        write_json(folder / CRITERIA_FILE, [asdict(trust) for trust in found])


def add_consensus(
    trials: Iterable[Trial], home: Path, others: Iterable[Trial], folder: Path
) -> list[Trial]:
    """Measures how well trials agree with others and writes it into their records.

    Args:
        trials: Whose records to complete.
        home: Where their folders lie.
        others: The trials to compare them with; one with the same number is passed over.
        folder: Where the folders of those lie.

    Returns:
        The trials whose consensus is new. It is the mean adjusted Rand index with the trials of
        each other method, averaged over those methods; in a sweep of one method with its other
        trials; of a method's trials at most `MOST_PEERS` are compared with.
    """
    peers = [(trial, found) for trial in others if (found := _maps(trial, folder)) is not None]
    peers = _evenly(peers)
    known: dict[frozenset[str], float] = {}
    changed = []
    for trial in trials:
        own = _maps(trial, home)
        strangers = [(peer, maps) for peer, maps in peers if peer.index != trial.index]
        foreign = [(peer, maps) for peer, maps in strangers if peer.method != trial.method]
        if own is None or not strangers:
            continue
        by_method: dict[str, list[float]] = {}
        for peer, maps in foreign or strangers:
            pair = frozenset((str(home / trial.name), str(folder / peer.name)))
            if pair not in known:
                known[pair] = _agreement(own, maps)
            by_method.setdefault(peer.method, []).append(known[pair])
        consensus = fmean(map(fmean, by_method.values()))
        if trial.metrics.get(CONSENSUS) != consensus:
            trial.metrics[CONSENSUS] = consensus
            trial.save(home)
            changed.append(trial)
    return changed


def _evenly(peers: list[tuple[Trial, Tensor]]) -> list[tuple[Trial, Tensor]]:
    """Takes at most `MOST_PEERS` of each method, evenly over their numbers."""
    by_method: dict[str, list[tuple[Trial, Tensor]]] = {}
    for peer in peers:
        by_method.setdefault(peer[0].method, []).append(peer)
    return [own[n] for own in by_method.values() for n in spread(len(own), MOST_PEERS)]


def _maps(trial: Trial, folder: Path) -> Tensor | None:
    if trial.status not in ENDED:
        return None
    try:
        arrays = read_evaluation(folder / trial.name, {}) or {}
    except DamagedError:
        return None
    maps = torch.from_numpy(arrays["fixed"].astype(np.int16)) if "fixed" in arrays else None
    return maps.flatten() if maps is not None and len(maps) else None


def _agreement(own: Tensor, maps: Tensor) -> float:
    return agreement(own.long(), maps.long()) if own.shape == maps.shape else 0.0
