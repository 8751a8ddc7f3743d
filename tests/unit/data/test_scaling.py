import numpy as np
import pytest
from pydantic import ValidationError

from usseg_ray.core.errors import UserError
from usseg_ray.data.scaling import AS_THEY_ARE, Scaling, Sight, parse_bands


def test_two_percentiles_of_each_band_become_black_and_white() -> None:
    bands = [np.arange(101) * step + 50 for step in (1, 10, 100)]
    scaling = Scaling.of(bands, "16-bit", "the training images' values")
    assert scaling.low == (52, 70, 250)
    assert scaling.high == (148, 1030, 9850)
    assert scaling.words == (
        "16-bit: 2 % and 98 % of the training images' values, 52 to 148 in red, 70 to 1030 in "
        "green and 250 to 9850 in blue, become 0 to 255"
    )


def test_equal_bands_are_said_once() -> None:
    words = Scaling.of([np.arange(101)] * 3, "float", "the images' values").words
    assert words == "float: 2 % and 98 % of the images' values, 2 to 98, become 0 to 255"


def test_numbers_are_scaled_each_band_by_its_own_and_clipped() -> None:
    scaling = Scaling(low=(0, 100, -1), high=(255, 200, 1))
    numbers = np.array([[[7, 151, 0], [300, 90, 1], [-3, 260, np.nan], [np.inf, 100, -np.inf]]])
    assert scaling.apply(numbers).tolist() == [
        [[7, 130, 128], [255, 0, 255], [0, 255, 0], [255, 0, 0]]
    ]


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_scaling_by_blocks_or_by_a_table_is_scaling_at_once(kind: type) -> None:
    numbers = np.random.default_rng(0).integers(0, 4096, (1100, 1000, 3)).astype(kind)
    scaling = Scaling(low=(100, 0, 5), high=(4000, 3000, 2000))
    low, span = np.array(scaling.low), np.array(scaling.high) - np.array(scaling.low)
    expected = ((numbers - low) * (255 / span)).clip(0, 255).round()
    assert np.array_equal(scaling.apply(numbers), expected)


@pytest.mark.parametrize("value", [0, 700, 3e9])
def test_one_number_alone_has_a_range_all_the_same(value: float) -> None:
    scaling = Scaling.of([np.full(9, value)] * 3)
    assert all(low < high for low, high in zip(scaling.low, scaling.high, strict=True))
    assert scaling.apply(np.full((1, 1, 3), value)).max() == 0


def test_what_is_not_finite_does_not_count() -> None:
    band = np.concatenate([np.arange(101.0), [np.nan, np.inf]])
    assert Scaling.of([band] * 3).high == (98, 98, 98)
    nothing = Scaling.of([np.array([np.nan])] * 3)
    assert (nothing.low, nothing.high) == ((0, 0, 0), (1, 1, 1))


def test_a_range_that_goes_down_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not below"):
        Scaling(low=(0, 0, 9), high=(1, 1, 9))


def test_what_is_seen_is_said() -> None:
    assert AS_THEY_ARE.lines == []
    scaling = Scaling.of([np.arange(101)] * 3, "16-bit", "the images' values")
    assert Sight(bands=("4", "3", "2"), scaling=scaling).lines == [
        "Bands 4, 3, 2 are what is seen.",
        "16-bit: 2 % and 98 % of the images' values, 2 to 98, become 0 to 255.",
    ]


@pytest.mark.parametrize(
    ("text", "bands"), [(None, ()), ("4,3,2", ("4", "3", "2")), (" nir ", ("nir",))]
)
def test_bands_are_one_or_three(text: str | None, bands: tuple[str, ...]) -> None:
    assert parse_bands(text) == bands


@pytest.mark.parametrize("text", ["", "1,2", "1,,2", "0,1,2", "1,2,3,4"])
def test_other_bands_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--bands 4,3,2"):
        parse_bands(text)
