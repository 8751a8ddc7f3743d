"""How well trials agree with each other on the fixed images that all of them were shown.

What many methods find in an image is likelier to be there than what one of them finds. A trial
cannot know it while it runs: the driver compares the label maps that trials leave beside their
evaluation, when all have ended.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from usseg_ray.label_free import agreement
from usseg_ray.objective import CONSENSUS
from usseg_ray.record import ARRAYS
from usseg_ray.trials import ENDED, Trial


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
        trials.
    """
    peers = [(trial, found) for trial in others if (found := _maps(trial, folder)) is not None]
    changed = []
    for trial in trials:
        own = _maps(trial, home)
        strangers = [(peer, maps) for peer, maps in peers if peer.index != trial.index]
        foreign = [(peer, maps) for peer, maps in strangers if peer.method != trial.method]
        if own is None or not strangers:
            continue
        by_method: dict[str, list[float]] = {}
        for peer, maps in foreign or strangers:
            by_method.setdefault(peer.method, []).append(_agreement(own, maps))
        consensus = fmean(map(fmean, by_method.values()))
        if trial.metrics.get(CONSENSUS) != consensus:
            trial.metrics[CONSENSUS] = consensus
            trial.save(home)
            changed.append(trial)
    return changed


def _maps(trial: Trial, folder: Path) -> Tensor | None:
    path = folder / trial.name / ARRAYS
    if trial.status not in ENDED or not path.exists():
        return None
    with np.load(path) as file:
        maps = torch.from_numpy(file["fixed"].astype(np.int64)) if "fixed" in file else None
    return maps.flatten() if maps is not None and len(maps) else None


def _agreement(own: Tensor, maps: Tensor) -> float:
    return agreement(own, maps) if own.shape == maps.shape else 0.0
