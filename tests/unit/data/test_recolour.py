"""Colour views: coins, strengths, order, and an image that is left alone."""

import numpy as np
import pytest

from usseg_ray.core.config import JitterConfig
from usseg_ray.data.recolour import (
    NUM_DRAWS,
    Photometric,
    adjust,
    draw_recolouring,
    photometric_from,
)

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
NEVER = JitterConfig(probability=0, grey=0, blur=0)
ALWAYS = JitterConfig(probability=1, grey=1, blur=1)


def draws(**changed: float) -> np.ndarray:
    """Coins that never fall below any probability, and middle values."""
    names = ("brightness", "contrast", "saturation", "hue", "grey", "blur")
    coins = {name: changed.get(name, 1.0 - 1e-9) for name in names}
    values = [changed.get(f"{name}_value", 0.5) for name in names[:4]]
    return np.array([*coins.values(), *values])


def test_nothing_is_drawn_with_probability_zero() -> None:
    random = np.random.default_rng(1)
    assert {draw_recolouring(random, NEVER) for _ in range(20)} == {Photometric()}
    assert np.array_equal(adjust(IMAGE, Photometric()), IMAGE)


def test_ten_numbers_are_taken() -> None:
    random, same = np.random.default_rng(2), np.random.default_rng(2)
    drawn = draw_recolouring(random, ALWAYS)
    assert drawn == photometric_from(same.random(NUM_DRAWS), ALWAYS)
    assert random.random() == same.random()


def test_every_change_has_its_own_coin() -> None:
    jitter = JitterConfig(probability=0.8)
    for name in ("brightness", "contrast", "saturation", "hue"):
        view = photometric_from(draws(**{name: 0.79}), jitter)
        others = {"brightness", "contrast", "saturation", "hue", "blur"} - {name}
        assert getattr(view, name) is not None
        assert all(getattr(view, other) is None for other in others)
        assert photometric_from(draws(**{name: 0.81}), jitter) == Photometric()


def test_values_span_their_ranges() -> None:
    jitter = JitterConfig(brightness=0.3, hue=0.1)
    for value, factor, shift in ((0.0, 0.7, -0.1), (0.5, 1.0, 0.0), (1.0, 1.3, 0.1)):
        view = photometric_from(
            draws(brightness=0, hue=0, brightness_value=value, hue_value=value), jitter
        )
        assert view.brightness == pytest.approx(factor)
        assert view.hue == pytest.approx(shift)


@pytest.mark.parametrize(("coin", "radius"), [(0.0, 1.8), (0.25, 0.85), (0.5 - 1e-12, 0.1)])
def test_blur_radius_follows_its_coin(coin: float, radius: float) -> None:
    view = photometric_from(draws(blur=coin), JitterConfig(blur=0.5))
    assert view.blur == pytest.approx(radius)
    assert view.blur == pytest.approx(abs(3.8 * (coin - 0.5) + 0.1))


def test_drawn_shares() -> None:
    random, jitter = np.random.default_rng(3), JitterConfig(probability=0.8, grey=0.2, blur=0.5)
    views = [draw_recolouring(random, jitter) for _ in range(2000)]
    for name, share in (("contrast", 0.8), ("hue", 0.8), ("blur", 0.5)):
        found = np.mean([getattr(view, name) is not None for view in views])
        assert found == pytest.approx(share, abs=0.03)
    assert np.mean([view.grey for view in views]) == pytest.approx(0.2, abs=0.03)


def test_grey_has_no_colour() -> None:
    shown = adjust(IMAGE, Photometric(saturation=1.3, hue=0.1, grey=True))
    assert (shown == shown[:, :, :1]).all()


@pytest.mark.parametrize("turns", [1.0, -1.0])
def test_a_whole_turn_of_hue_is_one_step_short_of_none(turns: float) -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[:, :, 0] = 255
    turned = adjust(red, Photometric(hue=turns))
    # 255 of 256 steps, as torchvision counts them.
    assert np.abs(turned.astype(int) - red).max() <= 6
    assert adjust(red, Photometric(hue=0.5))[0, 0].argmin() == 0


def test_blur_smooths_and_keeps_the_shape() -> None:
    shown = adjust(IMAGE, Photometric(blur=1.5))
    assert shown.shape == IMAGE.shape
    assert shown.dtype == np.uint8
    assert shown.std() < IMAGE.std()


def test_views_read_from_transposed_pixels() -> None:
    turned = IMAGE.transpose(2, 0, 1).copy().transpose(1, 2, 0)
    view = Photometric(contrast=1.2, blur=0.5)
    assert np.array_equal(adjust(turned, view), adjust(IMAGE, view))
