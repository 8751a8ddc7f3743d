"""Which criterion without labels may be trusted: how well each ranks the trials of a sweep.

Where the selection split has labels, both rankings are there to compare. What is learnt on data
with labels says which criterion to choose by on similar data without.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

from usseg_ray.objective import CONSENSUS, CRITERIA, MIOU
from usseg_ray.trials import ENDED, Trial

CRITERIA_FILE = "criteria.json"
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
        text = json.dumps([asdict(trust) for trust in found], indent=1)
        (folder / CRITERIA_FILE).write_text(text)


def load_trust(folder: Path) -> list[Trust]:
    """Reads what `save_trust` wrote; empty where it wrote nothing."""
    path = folder / CRITERIA_FILE
    return [Trust(**row) for row in json.loads(path.read_text())] if path.exists() else []
