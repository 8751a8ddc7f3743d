"""How many clusters? A sweep of K alone, and its answer: a curve and a K with its uncertainty.

`plan` asks `k_trials` what to run instead of drawing from a search space: every K with every seed.
When these have ended, `recommend` finds the best K, its neighbours K - 1 and K + 1 are run where
they were not among the trials, and `curve` says what was measured of every K.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from usseg_ray.core.errors import UserError
from usseg_ray.core.keys import key_seed
from usseg_ray.sweeps.space import Distribution, SearchSpace
from usseg_ray.trials.trial import ENDED, Trial

CLUSTERS, SEED = "num_clusters", "seed"
REPLICATES = 2000
WITHOUT_CLASSES = (4, 32)
"""Range of K where nothing says how many groups there may be."""


@dataclass(frozen=True)
class Point:
    """What was measured of one K.

    Attributes:
        k: Number of clusters.
        seeds: Trials with it.
        means: Metric -> mean over them.
        deviations: Metric -> sample deviation; without an entry for a single trial.
    """

    k: int
    seeds: int
    means: dict[str, float]
    deviations: dict[str, float]


@dataclass(frozen=True)
class Recommendation:
    """The K to take, by one metric.

    Attributes:
        metric: Which, the larger the better.
        k: The K with the largest mean over seeds.
        share: How often it is the best when seeds are drawn again with replacement, in [0, 1].
        low: The best K lies from here ...
        high: ... to here in 90 % of these draws.
        seeds: Seeds that every K has; with one there is nothing to draw from, and `low`, `high`
            and `share` say nothing.
    """

    metric: str
    k: int
    share: float
    low: int
    high: int
    seeds: int


def k_trials(
    space: SearchSpace, assigned: Mapping[str, Any], classes: int, count: int, seeds: range
) -> tuple[SearchSpace, tuple[dict[str, Any], ...]]:
    """Plans the trials of one method.

    Args:
        space: The method's own, whose range or choices of `num_clusters` are taken if it has them.
        assigned: What `--set` says.
        classes: Of the data; without them K runs over `WITHOUT_CLASSES`.
        count: Values of K to try, spread evenly in their logarithm over a range.
        seeds: With which each is tried.

    Returns:
        A space of K and seed, and what each trial draws; all K with the first seed come first.

    Raises:
        UserError: K is fixed, or there are fewer than two values of it.
    """
    if assigned.get(CLUSTERS) is not None:
        raise UserError(f"--question k tries several K: leave --set {CLUSTERS} out.")
    own = space.space.get(CLUSTERS)
    if own is not None and own.kind == "choice":
        counts = sorted({int(k) for k in own.values})
    else:
        around = (max(2, classes // 2), 2 * classes) if classes else WITHOUT_CLASSES
        low, high = own.values if own is not None else around
        counts = sorted({round(float(k)) for k in np.geomspace(low, high, count)})
    if len(counts) < 2:
        raise UserError("--question k compares values of K: give --num-samples 2 or more.")
    dimensions = {
        CLUSTERS: Distribution("choice", tuple(counts)),
        SEED: Distribution("choice", tuple(seeds)),
    }
    samples = tuple({CLUSTERS: k, SEED: seed} for seed in seeds for k in counts)
    return SearchSpace(space.fixed, dimensions, f"{space.source}, K alone"), samples


def curve(trials: Iterable[Trial], metrics: Iterable[str]) -> list[Point]:
    """Says what was measured of every K.

    Args:
        trials: Of one method.
        metrics: Which metrics; one that a K's trials do not all have is left out there.

    Returns:
        Points in the order of K.
    """
    by_k: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.status in ENDED:
            by_k.setdefault(int(trial.settings[CLUSTERS]), []).append(trial)
    points = []
    for k, found in sorted(by_k.items()):
        values = {
            name: [trial.metrics[name] for trial in found]
            for name in metrics
            if all(name in trial.metrics for trial in found)
        }
        means = {name: fmean(row) for name, row in values.items()}
        deviations = {name: stdev(row) for name, row in values.items() if len(row) > 1}
        points.append(Point(k, len(found), means, deviations))
    return points


def recommend(trials: Iterable[Trial], metric: str) -> Recommendation | None:
    """Finds the best K and says how sure that is.

    Args:
        trials: Of one method.
        metric: What to judge by, the larger the better.

    Returns:
        The recommendation; `None` where no two K were measured with the same seed.
    """
    values: dict[int, dict[int, float]] = {}
    for trial in trials:
        if trial.status in ENDED and metric in trial.metrics:
            k, seed = int(trial.settings[CLUSTERS]), int(trial.settings[SEED])
            values.setdefault(k, {})[seed] = trial.metrics[metric]
    # Neighbours that were added have one seed, and do not take part unless all have.
    most = max(map(len, values.values()), default=0)
    whole = {k: found for k, found in values.items() if len(found) == most}
    seeds = sorted(set.intersection(*(set(found) for found in whole.values())) if whole else ())
    if len(whole) < 2 or not seeds:
        return None
    counts = sorted(whole)
    table = np.array([[whole[k][seed] for seed in seeds] for k in counts])
    random = np.random.default_rng(key_seed("cluster counts", metric))
    draws = random.integers(len(seeds), size=(REPLICATES, len(seeds)))
    winners = np.array(counts)[table[:, draws].mean(2).argmax(0)]
    best = counts[int(table.mean(1).argmax())]
    low, high = np.quantile(winners, (0.05, 0.95), method="nearest").tolist()
    return Recommendation(
        metric, best, float((winners == best).mean()), int(low), int(high), len(seeds)
    )


def missing_neighbours(trials: Iterable[Trial], k: int) -> list[int]:
    """Lists which of K - 1 and K + 1 no trial had; one cluster is no segmentation."""
    there = {int(trial.settings[CLUSTERS]) for trial in trials}
    return [near for near in (k - 1, k + 1) if near >= 2 and near not in there]


def of_method(trials: Iterable[Trial], method: str) -> list[Trial]:
    """Keeps one method's trials."""
    return [trial for trial in trials if trial.method == method]


def pictured(trials: Iterable[Trial], k: int) -> Mapping[int, Trial]:
    """Chooses the trials to show: of K - 1, K and K + 1 the one with the smallest seed."""
    shown: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: -int(trial.settings[SEED])):
        if trial.status in ENDED and abs(int(trial.settings[CLUSTERS]) - k) <= 1:
            shown[int(trial.settings[CLUSTERS])] = trial
    return dict(sorted(shown.items()))
