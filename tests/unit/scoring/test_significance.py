import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_ind

from usseg_ray.scoring.metrics import MatchedCounts, score
from usseg_ray.scoring.significance import (
    MOST_SEEDS,
    Difference,
    half_width,
    own_half_width,
    paired_bootstrap,
    seeds_that_tell,
)


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


def interval(found: Difference) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_the_same_finalist_does_not_differ_from_itself() -> None:
    one = [counts_of(0.8, 1), counts_of(0.8, 1)]
    found = paired_bootstrap(one, one)
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert found.verdict == "noise"


def test_a_clear_difference_is_none_of_chance() -> None:
    better, worse = ([counts_of(a, seed) for seed in (1, 2, 3)] for a in (0.9, 0.7))
    found = paired_bootstrap(better, worse)
    low, high = interval(found)
    assert 10 < low < found.mean < high
    assert found.verdict == ""
    back = paired_bootstrap(worse, better)
    assert interval(back) == pytest.approx((-high, -low))


def test_pairs_tell_what_the_spread_over_images_hides() -> None:
    better, worse = ([counts_of(a, seed) for seed in (1, 2, 3)] for a in (0.80, 0.78))
    found = paired_bootstrap(better, worse)
    low, high = interval(found)
    # Images differ by 40 points, the two finalists by two: still seen on the same images.
    assert found.verdict == ""
    assert high - low < 3


def test_the_seeds_count_as_noise() -> None:
    first = [counts_of(0.80, 1), counts_of(0.70, 2), counts_of(0.90, 3)]
    second = [counts_of(0.82, 4), counts_of(0.71, 5), counts_of(0.86, 6)]
    found = paired_bootstrap(first, second)
    assert found.verdict == "noise"
    # Welch's interval of three scores and three scores, wider by what images do.
    whole = np.arange(60)
    scores = [[miou(counts, whole) for counts in side] for side in (first, second)]
    welch = ttest_ind(*scores, equal_var=False).confidence_interval(0.95)
    low, high = interval(found)
    assert low < welch.low + 1e-9 < welch.high - 1e-9 < high
    assert high - low < 1.1 * (welch.high - welch.low)


@pytest.mark.parametrize(("one", "other"), [(1, 1), (1, 3), (3, 1)])
def test_one_seed_has_no_interval(one: int, other: int) -> None:
    first, second = ([counts_of(0.8, s) for s in range(n)] for n in (one, other))
    found = paired_bootstrap(first, second)
    assert (found.low, found.high, found.verdict) == (None, None, "too few seeds")
    assert abs(found.mean) < 5


def test_images_count_as_naive_replicates_do() -> None:
    # Two equal seeds have no spread: what is left is what images do.
    first, second = counts_of(0.8, 1), counts_of(0.6, 2)
    rng = np.random.default_rng(3)
    naive = []
    for _ in range(4000):
        rows = rng.integers(0, 60, 60)
        naive.append(miou(first, rows) - miou(second, rows))
    low, high = interval(paired_bootstrap([first, first], [second, second], replicates=4000))
    expected = t.ppf(0.975, 59) * np.std(naive, ddof=1) * np.sqrt(60 / 59)
    assert high - low == pytest.approx(2 * expected, rel=0.05)


@pytest.mark.parametrize("images", [2, 3, 60])
def test_an_interval_is_to_the_digit_that_of_its_definition(images: int) -> None:
    first, second = ([counts_of(a, s, images) for s in (1, 2, 3)] for a in (0.8, 0.7))
    runs = [*first, *second]
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), 600)
    rows = [np.repeat(np.arange(images), times) for times in draws]
    shared = np.cov([[miou(run, drawn) for drawn in rows] for run in runs])

    def alike(block: np.ndarray) -> float:
        return float(block[~np.eye(3, dtype=bool)].mean())

    variance = alike(shared[:3, :3]) + alike(shared[3:, 3:]) - 2 * float(shared[:3, 3:].mean())
    variance = max(0.0, variance) * images / (images - 1)
    whole = [np.array([miou(run, np.arange(images)) for run in side]) for side in (first, second)]
    half = float(half_width(variance, images, *whole))
    found = paired_bootstrap(first, second, replicates=600)
    mean = whole[0].mean() - whole[1].mean()
    assert (found.mean, *interval(found)) == pytest.approx((mean, mean - half, mean + half))


def test_what_happens_to_one_run_on_one_image_counts_once() -> None:
    # Nothing is common to the seeds of a finalist, so images alone add next to nothing.
    rng = np.random.default_rng(0)
    actual = np.full((400, 3), 100)

    def run() -> MatchedCounts:
        hits = rng.binomial(actual, np.clip(0.6 + 0.2 * rng.standard_normal((400, 1)), 0, 1))
        return MatchedCounts(hits, hits + np.roll(actual - hits, 1, axis=1), actual)

    first, second = [run() for _ in range(20)], [run() for _ in range(20)]
    low, high = interval(paired_bootstrap(first, second))
    scores = [[miou(counts, np.arange(400)) for counts in side] for side in (first, second)]
    welch = ttest_ind(*scores, equal_var=False).confidence_interval(0.95)
    assert high - low == pytest.approx(welch.high - welch.low, rel=0.1)


def test_a_class_that_no_drawn_image_has_leaves_the_mean() -> None:
    hits = np.array([[10, 0], [10, 0]])
    one = MatchedCounts(hits, hits, hits)
    found = paired_bootstrap([one] * 2, [MatchedCounts(0 * hits, 0 * hits, hits)] * 2)
    assert (found.low, found.high) == (100, 100)


def test_a_class_of_a_single_pixel_counts_and_one_of_none_does_not() -> None:
    right = MatchedCounts(*(np.array([[9, 1, 0], [9, 0, 0]]) for _ in range(3)))
    # It claims a pixel of the third class, which the other one does not have in its mean.
    wrong = MatchedCounts(
        np.array([[9, 0, 0], [9, 0, 0]]),
        np.array([[9, 0, 0], [9, 0, 1]]),
        np.array([[9, 0, 0], [9, 1, 0]]),
    )
    assert paired_bootstrap([right], [wrong]).mean == pytest.approx(100 - 100 / 3)


@given(st.integers(2, 6), st.floats(0, 9), st.integers(2, 500))
def test_half_width_joins_two_intervals(seeds: int, variance: float, images: int) -> None:
    rng = np.random.default_rng(seeds)
    first, second = rng.standard_normal(seeds), 3 * rng.standard_normal(seeds)
    welch = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    by_seeds = (welch.high - welch.low) / 2
    found = float(half_width(variance, images, first, second))
    alone = t.ppf(0.975, images - 1) * np.sqrt(variance)
    assert found == pytest.approx(float(np.hypot(by_seeds, alone)))


def test_many_differences_have_the_half_widths_of_each() -> None:
    rng = np.random.default_rng(0)
    first, second, variance = rng.random((5, 3)), rng.random((5, 4)), rng.random(5)
    each = [float(half_width(*one)) for one in zip(variance, [30] * 5, first, second, strict=True)]
    assert half_width(variance, 30, first, second) == pytest.approx(each)


def test_more_seeds_of_one_finalist_do_not_make_up_for_few_of_the_other() -> None:
    many = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 6.0])
    found = float(half_width(0.0, 10, np.array([3.0, 3.0]), many))
    # Two equal scores seem to have no spread; two degrees of freedom are what two seeds can have.
    assert found == pytest.approx(t.ppf(0.975, 2) * many.std(ddof=1) / np.sqrt(6))


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


def test_a_finalists_own_interval_is_students_where_images_do_nothing() -> None:
    # Every image is alike, so drawing others changes nothing.
    runs = [
        MatchedCounts(*(np.full((50, 1), n) for n in (hits, 100, 100))) for hits in (50, 60, 64)
    ]
    scores = np.array([miou(counts, np.arange(50)) for counts in runs])
    expected = t.ppf(0.975, 2) * scores.std(ddof=1) / np.sqrt(3)
    assert own_half_width(runs) == pytest.approx(expected)


def test_a_finalists_own_interval_has_the_images_in_it() -> None:
    one, rng, drawn = counts_of(0.8, 1), np.random.default_rng(3), []
    for _ in range(4000):
        drawn.append(miou(one, rng.integers(0, 60, 60)))
    expected = t.ppf(0.975, 59) * np.std(drawn, ddof=1) * np.sqrt(60 / 59)
    assert own_half_width([one, one]) == pytest.approx(expected, rel=0.05)
    assert own_half_width([one]) is None


def test_as_many_seeds_tell_as_make_the_interval_end_before_0() -> None:
    first, second = [10.0, 12.0, 11.0], [9.0, 8.0, 10.0]
    half = float(half_width(0.1, 100, np.array(first), np.array(second)))
    found = seeds_that_tell(Difference(1.5, 1.5 - half, 1.5 + half), first, second)
    images, welch = (
        0.1 * t.ppf(0.975, 99) ** 2,
        [t.ppf(0.975, 2 * (n - 1)) ** 2 * 2 / n for n in range(2, MOST_SEEDS + 1)],
    )
    assert found == next(n for n, v in enumerate(welch, start=2) if images + v < 1.5**2)
    assert found is not None
    assert 3 < found < 10


def test_a_score_without_seeds_adds_no_spread() -> None:
    first = [10.0, 12.0, 11.0]
    half = float(t.ppf(0.975, 2) / np.sqrt(3))
    found = seeds_that_tell(Difference(1.5, 1.5 - half, 1.5 + half), first, [9.5])
    assert found == next(n for n in range(2, 20) if t.ppf(0.975, n - 1) / np.sqrt(n) < 1.5)


def seeds_by_definition(found: Difference, first: list[float], second: list[float]) -> int | None:
    """What `seeds_that_tell` says, by Welch's formulas and nothing else."""
    assert found.low is not None
    assert found.high is not None
    one, other = np.var(first, ddof=1), np.var(second, ddof=1)

    def by_seeds(runs: int) -> float:
        parts = one / runs, other / runs
        if not any(parts):
            return 0.0
        freedom = sum(parts) ** 2 / sum(part**2 / (runs - 1) for part in parts)
        return float(t.ppf(0.975, freedom) ** 2 * sum(parts))

    images = max(0.0, ((found.high - found.low) / 2) ** 2 - by_seeds(len(first)))
    return next(
        (
            runs
            for runs in range(len(first) + 1, MOST_SEEDS + 1)
            if images + by_seeds(runs) < found.mean**2
        ),
        None,
    )


SCORES = st.lists(st.integers(-300, 300).map(lambda n: n / 100), min_size=4, max_size=4)


@settings(max_examples=400)
@given(st.floats(0.05, 5), st.floats(0.0, 6), SCORES, SCORES)
def test_seeds_that_tell_are_those_of_the_definition(
    mean: float, half: float, first: list[float], second: list[float]
) -> None:
    found = Difference(mean, mean - half, mean + half)
    assert seeds_that_tell(found, first, second) == seeds_by_definition(found, first, second)


def student(runs: int) -> float:
    """Half an interval of that many seeds with deviation 1."""
    return float(t.ppf(0.975, runs - 1) / np.sqrt(runs))


@pytest.mark.parametrize("told", [4, 7, MOST_SEEDS, None])
def test_the_number_of_seeds_ends_where_nobody_would_train_more(told: int | None) -> None:
    runs = MOST_SEEDS + 1 if told is None else told
    # Between what one seed fewer would just not tell and what this many do.
    mean = (student(runs) + student(runs - 1)) / 2
    found = Difference(mean, mean - student(3), mean + student(3))
    assert seeds_that_tell(found, [10.0, 12.0, 11.0], [9.0]) == told


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_all_score_the_same_need_one_more_at_most(seeds: int) -> None:
    equal = [5.0] * seeds
    assert seeds_that_tell(Difference(1.0, 0.5, 1.5), equal, [4.0] * seeds) == seeds + 1
    assert seeds_that_tell(Difference(1.0, -0.5, 2.5), equal, [4.0] * seeds) is None


@pytest.mark.parametrize(
    "difference", [Difference(1.0), Difference(0.0, -1.0, 1.0), Difference(0.01, -9.0, 9.02)]
)
def test_what_no_number_of_seeds_tells(difference: Difference) -> None:
    assert seeds_that_tell(difference, [1.0, 2.0, 3.0], [0.0, 1.0, 5.0]) is None
