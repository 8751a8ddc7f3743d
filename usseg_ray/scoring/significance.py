"""Whether two finalists differ, or whether the difference is noise of images and of seeds.

Off an image's path: it works on what `metrics` counted for every image, after all is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from usseg_ray.scoring.metrics import MatchedCounts

REPLICATES = 2000
CONFIDENCE = 0.95
FEWEST_SEEDS = 2
"""Of each finalist; one seed does not say how far seeds lie apart."""
MOST_SEEDS = 20
"""That anybody would train to tell two finalists apart."""
_PORTION = 250


@dataclass(frozen=True)
class Difference:
    """How much better one finalist scores than another.

    Attributes:
        mean: Mean mIoU over the seeds of the one less that of the other, percent.
        low: Lower end of the 95 % interval, percent; `None` where there are too few seeds.
        high: Upper end of it, percent.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """`too few seeds`, `noise` where no difference at all is in the interval, or nothing."""
        if self.low is None or self.high is None:
            return "too few seeds"
        return "noise" if self.low <= 0 <= self.high else ""


def paired_bootstrap(
    first: Sequence[MatchedCounts],
    second: Sequence[MatchedCounts],
    *,
    replicates: int = REPLICATES,
) -> Difference:
    """Compares two finalists on the same images, each trained with several seeds.

    A replicate draws images with replacement, the same for all runs; clusters keep the classes that
    the whole split gave them. How alike two runs vary over the replicates is what images do to
    both. That of runs that share nothing but the images is the images' own share of the variance,
    free of what happens to a single run on a single image, which the spread over seeds has already.

    Args:
        first: Counts of one finalist, a set of them for every seed.
        second: Of the other, on the same images in the same order.
        replicates: How many are drawn.

    Returns:
        `first` minus `second`; without an interval where one of them has fewer than
        `FEWEST_SEEDS` seeds.

    Raises:
        ValueError: The two were not scored on the same images.

    Reference:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; two-way random
        effects (images by seeds) as in Searle, Casella and McCulloch 1992, Variance Components.
    """
    sizes = {counts.actual.shape for counts in (*first, *second)}
    if len(sizes) != 1:
        raise ValueError(f"a paired comparison needs the same images and classes, not {sizes}")
    ((num_images, _),) = sizes
    whole = np.ones((1, num_images))
    scores = [np.array([_miou(counts, whole)[0] for counts in side]) for side in (first, second)]
    mean = float(scores[0].mean() - scores[1].mean())
    if min(len(first), len(second)) < FEWEST_SEEDS:
        return Difference(mean)
    shared = _shared([*first, *second], replicates)
    half = float(half_width(_image_variance(shared, len(first)), num_images, *scores))
    return Difference(mean, mean - half, mean + half)


def own_half_width(runs: Sequence[MatchedCounts]) -> float | None:
    """Measures how well a finalist's own mean over seeds is known, as `paired_bootstrap` does.

    Args:
        runs: Its counts, a set of them for every seed, on the same images.

    Returns:
        Half of the width of the 95 % interval over seeds and images, percent; `None` where it has
        fewer than `FEWEST_SEEDS` seeds.
    """
    if len(runs) < FEWEST_SEEDS:
        return None
    num_images = len(runs[0].actual)
    scores = np.array([_miou(counts, np.ones((1, num_images)))[0] for counts in runs])
    variance = max(0.0, _covariance(_shared(runs, REPLICATES)))
    # Against something that does not vary, Welch's interval is Student's.
    return float(half_width(variance, num_images, scores, np.zeros_like(scores)))


def seeds_that_tell(
    difference: Difference, first: Sequence[float], second: Sequence[float]
) -> int | None:
    """Says how many seeds of each would tell two finalists apart, if nothing else changed.

    The difference, the spread over seeds and what images do to it are taken to stay as they are.

    Args:
        difference: `first` minus `second`.
        first: Score of every seed of one finalist, percent.
        second: Of the other; a single one for a score that has no seeds, such as a baseline's.

    Returns:
        The smallest number whose interval would not hold 0, `MOST_SEEDS` at most; `None` where
        that many would not do, or nothing is known of the spread.
    """
    if difference.low is None or difference.high is None:
        return None
    one, other = np.array(first), np.array(second)
    if len(other) == 1:
        other = np.zeros_like(one)
    half = (difference.high - difference.low) / 2
    images = max(0.0, half**2 - float(half_width(0.0, 2, one, other)) ** 2)
    variances = one.var(ddof=1), other.var(ddof=1)
    spread = sum(variances)
    share = variances[0] / spread if spread > 0 else 1.0
    for count in range(max(len(first), FEWEST_SEEDS) + 1, MOST_SEEDS + 1):
        freedom = (count - 1) / (share**2 + (1 - share) ** 2)
        by_seeds = stdtrit(freedom, 1 - (1 - CONFIDENCE) / 2) ** 2 * spread / count
        if images + by_seeds < difference.mean**2:
            return count
    return None


def half_width(
    image_variance: float | Float64[np.ndarray, "*shape"],
    num_images: int,
    first: Float64[np.ndarray, "*shape s"],
    second: Float64[np.ndarray, "*shape r"],
) -> Float64[np.ndarray, "*shape"]:
    """Joins what images and what seeds do to a difference of means over seeds.

    Each source alone would give an interval of its own: Student's over images, Welch's over the
    seeds of two finalists that need not vary alike. Their half-widths are joined as the sides of a
    right triangle, which is exact where one source is all there is, and a little wide in between.
    One interval with the joint degrees of freedom of both (Satterthwaite 1946) is too narrow in
    between, where two or three seeds happen to lie close together. docs/sweeps.md has the coverage.

    Args:
        image_variance: (*) variance of the difference by images alone.
        num_images: Images behind it.
        first: (*, s) score of every seed of one finalist, s at least 2.
        second: (*, r) of the other.

    Returns:
        (*) half of the width of the 95 % interval, in the unit of the scores.

    Reference:
        Welch 1938, Biometrika 29, with the degrees of freedom of Satterthwaite 1946, Biometrics
        Bulletin 2 (seeds); Howe 1974, JASA 69, and Zou and Donner 2008, Statistics in Medicine 27
        (joining half-widths).
    """
    upper = 1 - (1 - CONFIDENCE) / 2
    images = stdtrit(max(num_images - 1, 1), upper) ** 2 * image_variance
    sides = [scores.var(-1, ddof=1) / scores.shape[-1] for scores in (first, second)]
    spread = sides[0] + sides[1]
    # Seeds that all score the same have no spread, of any number of degrees of freedom.
    share = sides[0] / np.where(spread > 0, spread, 1.0)
    one, other = first.shape[-1] - 1, second.shape[-1] - 1
    freedom = 1 / (share**2 / one + (1 - share) ** 2 / other)
    # Of unequal numbers, two seeds that happen to lie together would seem to weigh nothing.
    freedom = np.minimum(freedom, 2 * min(one, other))
    return np.asarray(np.sqrt(images + stdtrit(freedom, upper) ** 2 * spread))


def _shared(runs: Sequence[MatchedCounts], replicates: int) -> Float64[np.ndarray, "n n"]:
    """Finds how the scores of runs vary together over draws of images, the same for all."""
    num_images, rng, found = len(runs[0].actual), np.random.default_rng(0), []
    for start in range(0, replicates, _PORTION):
        count = min(_PORTION, replicates - start)
        times = rng.multinomial(num_images, np.full(num_images, 1 / num_images), count)
        weights = times.astype(np.float64)
        found.append(np.stack([_miou(counts, weights) for counts in runs]))
    # A resample of n images varies by n - 1 parts in n of what new images would.
    return np.cov(np.concatenate(found, axis=1)) * num_images / max(num_images - 1, 1)


def _image_variance(shared: Float64[np.ndarray, "n n"], num_first: int) -> float:
    """Reads off the covariances of runs what images do to the difference of two means.

    Args:
        shared: (n, n) covariance over draws of images, runs of the first finalist before the other.
        num_first: How many those are.

    Returns:
        Mean covariance of two runs of the one, and of the other, less twice that of a run of each.
    """
    own = shared[:num_first, :num_first], shared[num_first:, num_first:]
    alike = sum(map(_covariance, own))
    return max(0.0, float(alike - 2 * shared[:num_first, num_first:].mean()))


def _covariance(shared: Float64[np.ndarray, "n n"]) -> float:
    """Averages the covariance of two different runs of one finalist."""
    return float((shared.sum() - shared.trace()) / (len(shared) * (len(shared) - 1)))


def _miou(counts: MatchedCounts, weights: Float64[np.ndarray, "R n"]) -> Float64[np.ndarray, " R"]:
    hits = weights @ counts.intersection
    union = weights @ (counts.actual + counts.predicted - counts.intersection)
    present = union > 0
    iou = np.where(present, hits / np.maximum(union, 1), 0.0)
    return np.asarray(100.0 * iou.sum(axis=1) / np.maximum(present.sum(axis=1), 1))
