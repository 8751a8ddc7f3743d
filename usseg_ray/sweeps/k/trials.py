"""How many clusters? A sweep of K alone, and its answer: a curve and a K with its uncertainty.

`plan` asks `k_trials` what to run instead of drawing from a search space: every K with every seed.
When these have ended, `recommend` finds the best K; where that lies at the edge of the range,
`beyond` says which are tried once more. `curve` says what was measured of every K.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from statistics import fmean, stdev
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from usseg_ray.core.errors import UserError
from usseg_ray.core.keys import key_seed
from usseg_ray.sweeps.space import Distribution, SearchSpace
from usseg_ray.trials.trial import ENDED, Trial, trial_name

CLUSTERS, SEED = "num_clusters", "seed"
REPLICATES = 2000
FEWEST_SEEDS = 3
"""Below it a share of draws is no number: with two seeds there are three different draws."""
FEWEST_CLUSTERS = 2
LARGEST_STEP = 2.0
"""From one K to the next past an edge: a range of two far values says nothing of the steps."""
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
        mean: That mean.
        deviation: The sample deviation around it; `None` with one seed.
        share: How often it is the best when seeds are drawn again with replacement, in [0, 1];
            `None` with fewer than `FEWEST_SEEDS`, of which a share would say nothing.
        low: The plateau: from here ...
        high: ... to here no tried K is told apart from the best one (paired t over seeds, one-sided
            95 %); with one seed, K alone.
        seeds: Seeds that every K in the draw has.
        tried: All K in the draw.
        left_out: K that lack one of these seeds, as trials of theirs did not end.
    """

    metric: str
    k: int
    mean: float
    deviation: float | None
    share: float | None
    low: int
    high: int
    seeds: int
    tried: tuple[int, ...]
    left_out: tuple[int, ...] = ()

    @property
    def edge(self) -> str:
        """`largest` or `smallest` where the best K lies at that end of what was tried."""
        ends = {self.tried[0]: "smallest", self.tried[-1]: "largest"}
        return ends.get(self.k, "") if self.k > FEWEST_CLUSTERS else ""


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

    Only K that were measured with the same seeds compare. Where some trials did not end, the seeds
    count that all K have, but for those K that have less than half of the seeds of others.

    Args:
        trials: Of one method.
        metric: What to judge by, the larger the better.

    Returns:
        The recommendation; `None` where no two K were measured with the same seed, or all are
        alike.
    """
    values: dict[int, dict[int, float]] = {}
    for trial in trials:
        if trial.status in ENDED and metric in trial.metrics:
            k, seed = int(trial.settings[CLUSTERS]), int(trial.settings[SEED])
            values.setdefault(k, {})[seed] = trial.metrics[metric]
    counts, seeds = _common(values)
    if len(counts) < 2:
        return None
    table = np.array([[values[k][seed] for seed in seeds] for k in counts])
    if np.ptp(table.mean(1)) == 0:
        return None
    best = int(table.mean(1).argmax())
    low, high = _plateau(table, best)
    return Recommendation(
        metric,
        counts[best],
        float(table[best].mean()),
        float(table[best].std(ddof=1)) if len(seeds) > 1 else None,
        _share(table, best, metric) if len(seeds) >= FEWEST_SEEDS else None,
        counts[low],
        counts[high],
        len(seeds),
        tuple(counts),
        tuple(sorted(values.keys() - set(counts))),
    )


def _common(values: Mapping[int, Mapping[int, float]]) -> tuple[list[int], list[int]]:
    """Chooses K and seeds, every K measured with every seed: as many K as can be, then seeds.

    Args:
        values: K -> seed -> what was measured.

    Returns:
        At least two K, or none where no two have a seed in common.
    """
    most = max(map(len, values.values()), default=0)
    able = {k: found for k, found in values.items() if 2 * len(found) >= most}
    often = Counter(seed for found in able.values() for seed in found)
    order = sorted(often, key=lambda seed: (-often[seed], seed))
    best = list[int](), list[int]()
    for end in range(1, len(order) + 1):
        seeds = sorted(order[:end])
        counts = sorted(k for k, found in able.items() if found.keys() >= set(seeds))
        if len(counts) > 1 and (len(counts), end) > (len(best[0]), len(best[1])):
            best = counts, seeds
    return best


def _share(table: Float64[np.ndarray, "k s"], best: int, metric: str) -> float:
    """Says how often a row of (k, s) has the largest mean when columns are drawn again."""
    random = np.random.default_rng(key_seed("cluster counts", metric))
    draws = random.integers(table.shape[1], size=(REPLICATES, table.shape[1]))
    return float((table[:, draws].mean(2).argmax(0) == best).mean())


def _plateau(table: Float64[np.ndarray, "k s"], best: int) -> tuple[int, int]:
    """Finds the rows around the best one that are not told apart from it: the first and the last.

    Args:
        table: (k, s), a row for each K in order, a column for each seed.
        best: The best row.
    """
    seeds = table.shape[1]
    if seeds < 2:
        return best, best
    behind = table[best] - table
    error = behind.std(1, ddof=1) / seeds**0.5
    level = behind.mean(1) <= stdtrit(seeds - 1, 0.95) * error
    low = high = best
    while low > 0 and level[low - 1]:
        low -= 1
    while high < len(table) - 1 and level[high + 1]:
        high += 1
    return low, high


def beyond(advice: Recommendation) -> list[int]:
    """Lists two K past the edge at which the best one lies, in the range's steps or doubling.

    Args:
        advice: The best K of what was tried.

    Returns:
        None where the best K lies inside, or there are no fewer clusters.
    """
    tried = advice.tried
    if advice.edge == "largest":
        step = min(tried[-1] / tried[-2], LARGEST_STEP)
        found = {max(tried[-1] + n, round(tried[-1] * step**n)) for n in (1, 2)}
    elif advice.edge == "smallest":
        step = min(tried[1] / tried[0], LARGEST_STEP)
        found = {max(FEWEST_CLUSTERS, round(tried[0] / step**n)) for n in (1, 2)}
    else:
        found = set[int]()
    return sorted(found - set(tried))


def more_samples(advice: Recommendation, seeds: Iterable[Any]) -> list[dict[str, Any]]:
    """Lists what trials `beyond` the range draw: every K with every seed."""
    return [{CLUSTERS: k, SEED: seed} for seed in seeds for k in beyond(advice)]


def past_the_edge(
    samples: Iterable[tuple[str, dict[str, Any]]], earlier: Iterable[Trial], planned: int
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Names trials past the edge; one that an earlier life of the sweep began keeps its name.

    Args:
        samples: Method and what it draws, of each.
        earlier: All records of the sweep.
        planned: How many trials were planned, whose names come first.

    Returns:
        Method and draw by name.
    """
    known = {
        (trial.method, *sorted(trial.sample.items())): trial.index
        for trial in earlier
        if trial.index >= planned
    }
    free = count(max(known.values(), default=planned - 1) + 1)
    found = dict[str, tuple[str, dict[str, Any]]]()
    for method, sample in samples:
        index = known.get((method, *sorted(sample.items())))
        found[trial_name(next(free) if index is None else index)] = method, sample
    return found


def of_method(trials: Iterable[Trial], method: str) -> list[Trial]:
    """Keeps one method's trials."""
    return [trial for trial in trials if trial.method == method]


def pictured(trials: Iterable[Trial]) -> Mapping[int, Trial]:
    """Chooses the trials to show: of every K the one with the smallest seed."""
    shown: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: -int(trial.settings[SEED])):
        if trial.status in ENDED:
            shown[int(trial.settings[CLUSTERS])] = trial
    return dict(sorted(shown.items()))
