import pytest

from usseg_ray.core.calibration import SHARES, Cosines
from usseg_ray.methods.parts.rules import FASTEST, fixed, rate, threshold


def test_a_rate_goes_as_far_in_any_number_of_steps_but_not_too_fast() -> None:
    # STEGO's published schedule.
    assert rate("method.lr", 5000).value == 5e-4
    assert rate("method.lr", 2500, 0.25).value == 1e-4
    assert rate("method.lr", 10).value == FASTEST
    assert "5000 steps 2.5" in rate("method.lr", 5000).rule


@pytest.mark.parametrize(("shift", "value"), [(0.0, 0.4), (0.9, 1.0), (-1.9, -1.0)])
def test_a_threshold_is_a_cosine_that_a_share_of_pairs_lies_above(
    shift: float, value: float
) -> None:
    pairs = Cosines(levels=tuple(1 - share + shift for share in SHARES))
    found = threshold("method.shift_intra", pairs, 0.6, "pairs within an image")
    assert found.value == pytest.approx(value)
    assert found.rule == "60 % of pairs within an image lie above it"


def test_a_space_draws_between_shares_of_four_times_the_odds() -> None:
    pairs = Cosines(levels=tuple(1 - share for share in SHARES))
    found = threshold("method.shift_intra", pairs, 0.5, "pairs within an image")
    assert found.ends == pytest.approx((0.2, 0.8))
    # Beyond what is known there is nothing to draw.
    rare = threshold("method.shift_negative", pairs, SHARES[0], "pairs with another image").ends
    assert rare is not None
    assert rare[1] == pytest.approx(1 - SHARES[0], abs=1e-4)
    equal = Cosines(levels=(0.5,) * len(SHARES))
    assert threshold("method.shift_intra", equal, 0.5, "pairs").ends is None


def test_what_a_circumstance_decides_is_said_with_its_reason() -> None:
    found = fixed("method.affinity", "cosine", "this backbone has no attention")
    assert (found.key, found.value) == ("method.affinity", "cosine")
    assert found.rule == "this backbone has no attention"


@pytest.mark.parametrize(("value", "kept"), [(1 / 3, 0.3333), (1 / 3e5, 3.333e-6), (12345, 12345)])
def test_what_is_computed_keeps_four_digits_however_small_it_is(value: float, kept: float) -> None:
    assert fixed("method.share", value, "of many tokens").value == kept
