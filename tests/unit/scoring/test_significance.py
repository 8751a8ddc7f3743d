import numpy as np
import pytest

from usseg_ray.scoring.metrics import MatchedCounts, score
from usseg_ray.scoring.significance import paired_bootstrap


def counts_of(accuracy: float, seed: int, images: int = 60) -> MatchedCounts:
    """Images of 3 classes whose pixels are right at random; hard ones are hard for all."""
    rng, hardness = np.random.default_rng(seed), np.random.default_rng(9)
    actual = hardness.integers(50, 200, (images, 3))
    right = np.clip(accuracy - hardness.uniform(0, 0.4, (images, 1)), 0, 1)
    hits = rng.binomial(actual, np.broadcast_to(right, actual.shape))
    wrong = actual - hits
    # What is missed is claimed by the next class.
    return MatchedCounts(hits, hits + np.roll(wrong, 1, axis=1), actual)


def miou(counts: MatchedCounts, rows: np.ndarray) -> float:
    hits = counts.intersection[rows].sum(0)
    union = (counts.actual + counts.predicted - counts.intersection)[rows].sum(0)
    return float(100 * (hits / union).mean())


def test_the_same_finalist_does_not_differ_from_itself() -> None:
    one = [counts_of(0.8, 1)]
    found = paired_bootstrap(one, one)
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert found.is_noise


def test_a_clear_difference_is_none_of_chance() -> None:
    found = paired_bootstrap([counts_of(0.9, 1)], [counts_of(0.7, 2)])
    assert 10 < found.low < found.mean < found.high
    assert not found.is_noise
    back = paired_bootstrap([counts_of(0.7, 2)], [counts_of(0.9, 1)])
    assert back.mean == pytest.approx(-found.mean)


def test_pairs_tell_what_the_spread_over_images_hides() -> None:
    better, worse = counts_of(0.80, 1), counts_of(0.78, 2)
    spread = paired_bootstrap([better], [better]).high
    found = paired_bootstrap([better], [worse])
    assert spread == 0
    # Images differ by 40 points, the two finalists by two: still seen on the same images.
    assert not found.is_noise
    assert found.high - found.low < 3


def test_the_seeds_count_as_noise() -> None:
    first = [counts_of(0.80, 1), counts_of(0.70, 2), counts_of(0.90, 3)]
    second = [counts_of(0.82, 4), counts_of(0.71, 5), counts_of(0.86, 6)]
    assert paired_bootstrap(first, second).is_noise
    assert not paired_bootstrap(first[:1], first[1:2]).is_noise


def test_replicates_are_as_naive_ones() -> None:
    first, second = counts_of(0.8, 1, images=5), counts_of(0.6, 2, images=5)
    rng = np.random.default_rng(3)
    naive = []
    for _ in range(4000):
        rows = rng.integers(0, 5, 5)
        naive.append(miou(first, rows) - miou(second, rows))
    found = paired_bootstrap([first], [second], replicates=4000)
    assert found.mean == pytest.approx(np.mean(naive), abs=0.2)
    low, high = np.percentile(naive, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.5)
    assert found.high == pytest.approx(high, abs=0.5)


def test_a_class_that_no_drawn_image_has_leaves_the_mean() -> None:
    hits = np.array([[10, 0], [10, 0]])
    one = MatchedCounts(hits, hits, hits)
    found = paired_bootstrap([one], [MatchedCounts(0 * hits, 0 * hits, hits)])
    assert (found.low, found.high) == (100, 100)


def test_of_the_whole_split_it_is_the_score() -> None:
    counts = counts_of(0.8, 1)
    missed = np.roll(np.diag((counts.actual - counts.intersection).sum(0)), 1, axis=0)
    confusion = np.diag(counts.intersection.sum(0)) + missed
    assert confusion.sum() == counts.actual.sum()
    whole = np.arange(len(counts.actual))
    assert score(confusion, np.arange(3)).unsup_miou == pytest.approx(miou(counts, whole))


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images and classes"):
        paired_bootstrap([counts_of(0.8, 1)], [counts_of(0.8, 1, images=9)])
