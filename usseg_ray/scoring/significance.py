"""Whether two finalists differ, or whether the difference is noise: a paired bootstrap.

Off an image's path: it works on what `metrics` counted for every image, after all is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from usseg_ray.scoring.metrics import MatchedCounts

REPLICATES = 2000
CONFIDENCE = 0.95
_PORTION = 250


@dataclass(frozen=True)
class Difference:
    """How much better one finalist scores than another.

    Attributes:
        mean: Of the differences of mIoU over the replicates, percent.
        low: Lower end of their central 95 %, percent.
        high: Upper end of it, percent.
    """

    mean: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether no difference at all is among the central 95 %."""
        return self.low <= 0 <= self.high


def paired_bootstrap(
    first: Sequence[MatchedCounts],
    second: Sequence[MatchedCounts],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Difference:
    """Compares two finalists on the same images, each trained with several seeds.

    A replicate draws images with replacement, the same for both, and for each finalist as many of
    its seeds as it has, with replacement; the score is the mean over the drawn seeds of the mIoU
    over the drawn images. Clusters keep the classes that the whole split gave them.

    Args:
        first: Counts of one finalist, a set of them for every seed.
        second: Of the other, on the same images in the same order.
        seed: Of the draws.
        replicates: How many are drawn.

    Returns:
        `first` minus `second`.

    Raises:
        ValueError: The two were not scored on the same images.

    Reference:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    sizes = {counts.actual.shape for counts in (*first, *second)}
    if len(sizes) != 1:
        raise ValueError(f"a paired comparison needs the same images and classes, not {sizes}")
    ((num_images, _),) = sizes
    rng = np.random.default_rng(seed)
    differences = []
    for start in range(0, replicates, _PORTION):
        count = min(_PORTION, replicates - start)
        times = rng.multinomial(num_images, np.full(num_images, 1 / num_images), count)
        weights = times.astype(np.float64)
        means = [_mean_over_seeds(side, weights, rng) for side in (first, second)]
        differences.append(means[0] - means[1])
    found = np.concatenate(differences)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(found, [tail, 100 - tail])
    return Difference(float(found.mean()), float(low), float(high))


def _mean_over_seeds(
    seeds: Sequence[MatchedCounts], weights: Float64[np.ndarray, "R n"], rng: np.random.Generator
) -> Float64[np.ndarray, " R"]:
    scores = np.stack([_miou(counts, weights) for counts in seeds])
    drawn = rng.integers(len(seeds), size=scores.shape)
    return np.asarray(np.take_along_axis(scores, drawn, axis=0).mean(axis=0))


def _miou(counts: MatchedCounts, weights: Float64[np.ndarray, "R n"]) -> Float64[np.ndarray, " R"]:
    hits = weights @ counts.intersection
    union = weights @ (counts.actual + counts.predicted - counts.intersection)
    present = union > 0
    iou = np.where(present, hits / np.maximum(union, 1), 0.0)
    return np.asarray(100.0 * iou.sum(axis=1) / np.maximum(present.sum(axis=1), 1))
