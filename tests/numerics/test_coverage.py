"""How often the interval of `significance` holds the true difference, as docs/sweeps.md lists it.

Two finalists whose true scores are equal; what images do is known, what seeds do is seen through a
few of them. The table of the documentation is held against what is simulated here; with
`python -m tests.numerics.test_coverage` it is printed.
"""

from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float64

from usseg_ray.scoring.metrics import MatchedCounts
from usseg_ray.scoring.significance import half_width, paired_bootstrap

DRAWS = 20_000
IMAGES = 500
KNOWN = 1.96
SEEDS = range(2, 11)
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
PAGE = Path(__file__).parents[2] / "docs" / "sweeps.md"


def simulate(
    seeds: tuple[int, int], share: float, variances: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float]:
    """Draws differences of two equal finalists.

    Args:
        seeds: Of each.
        share: What part of the difference's variance seeds make, by their true spread.
        variances: Of one seed's score, of each.

    Returns:
        Coverage, percent; and the median width over that of an interval which knows the variances.
    """
    rng = np.random.default_rng(0)
    spread = sum(variance / count for variance, count in zip(variances, seeds, strict=True))
    images = spread * (1 - share) / share if share else 1.0
    sides = [
        np.sqrt(variance if share else 0.0) * rng.standard_normal((DRAWS, count))
        for variance, count in zip(variances, seeds, strict=True)
    ]
    difference = sides[0].mean(1) - sides[1].mean(1)
    difference += np.sqrt(images) * rng.standard_normal(DRAWS)
    half = half_width(np.full(DRAWS, images), IMAGES, *sides)
    known = KNOWN * np.sqrt(images + (spread if share else 0.0))
    return 100 * float((np.abs(difference) <= half).mean()), float(np.median(half) / known)


def table() -> list[str]:
    """Writes the rows of the documentation's table."""
    rows = []
    for count in SEEDS:
        found = [simulate((count, count), share) for share in SHARES]
        rows.append(f"| {count} | " + " | ".join(f"{c:.1f}, {w:.2f}" for c, w in found) + " |")
    return rows


@pytest.fixture(scope="module")
def simulated() -> Float64[np.ndarray, "seeds shares two"]:
    return np.array(
        [[simulate((count, count), share) for share in SHARES] for count in SEEDS], np.float64
    )


def test_at_least_93_percent_and_from_5_seeds_on_at_most_97(
    simulated: Float64[np.ndarray, "seeds shares two"],
) -> None:
    coverage = simulated[..., 0]
    assert coverage.min() >= 93
    assert coverage[SEEDS.index(5) :].max() <= 97


def test_more_seeds_come_near_to_known_variances(
    simulated: Float64[np.ndarray, "seeds shares two"],
) -> None:
    widths = simulated[..., 1]
    assert (np.diff(widths, axis=0) < 0.01).all()
    assert widths[-1].max() < 1.1
    # Nothing is paid for seeds where they make no difference.
    assert widths[:, 0] == pytest.approx(1.0, abs=0.01)


def test_the_documentation_has_this_table(
    simulated: Float64[np.ndarray, "seeds shares two"],
) -> None:
    lines = PAGE.read_text().splitlines()
    heading = "| Seeds of each | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
    start = lines.index(heading.replace("%", " %")) + 2
    said = [
        [[float(number) for number in cell.split(",")] for cell in line.split("|")[2:-1]]
        for line in lines[start : start + len(SEEDS)]
    ]
    np.testing.assert_allclose(np.array(said)[..., 0], simulated[..., 0], atol=0.4)
    np.testing.assert_allclose(np.array(said)[..., 1], simulated[..., 1], atol=0.03)


@pytest.mark.parametrize("seeds", [(2, 2), (2, 3), (2, 10), (3, 3), (5, 3), (5, 10)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_finalists_of_unequal_seeds_and_unequal_spread(
    seeds: tuple[int, int], share: float
) -> None:
    assert simulate(seeds, share)[0] >= 93
    # The noisy one is the one with two seeds, of which some runs failed: Welch's own weak place.
    least = 91 if min(seeds) == 2 < max(seeds) else 93
    for variances in ((10.0, 1.0), (1.0, 10.0)):
        assert simulate(seeds, share, variances)[0] >= least


def runs_of(
    rng: np.random.Generator, hardness: Float64[np.ndarray, "n 1"], seeds: int, noise: float
) -> list[MatchedCounts]:
    """Draws runs whose images are right by their hardness, by the run and by both together."""
    actual = np.full((len(hardness), 3), 200)
    found = []
    for _ in range(seeds):
        of_run, of_both = noise * rng.standard_normal(), 0.05 * rng.standard_normal(hardness.shape)
        right = np.clip(0.6 + hardness + of_run + of_both, 0, 1)
        hits = rng.binomial(actual, np.broadcast_to(right, actual.shape))
        found.append(MatchedCounts(hits, hits + np.roll(actual - hits, 1, axis=1), actual))
    return found


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize(("of_images", "of_seeds"), [(0.2, 0.0), (0.1, 0.02), (0.0, 0.02), (0, 0)])
def test_two_equal_finalists_by_their_counts(seeds: int, of_images: float, of_seeds: float) -> None:
    rng, held, draws = np.random.default_rng(seeds), 0, 150
    for _ in range(draws):
        common = 0.1 * rng.standard_normal((40, 1))
        one, other = (
            runs_of(rng, common + of_images * rng.standard_normal((40, 1)), seeds, of_seeds)
            for _ in range(2)
        )
        held += paired_bootstrap(one, other, replicates=250).verdict == "noise"
    # Three deviations of the count below 93 %.
    assert held / draws >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / draws)


if __name__ == "__main__":
    print(*table(), sep="\n")
