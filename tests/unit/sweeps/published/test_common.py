"""What published settings share is understood where it goes."""

import pytest

from usseg_ray import methods
from usseg_ray.core.config import known_keys
from usseg_ray.sweeps.published import common


@pytest.mark.parametrize(
    "shared",
    [
        common.SMALL_16,
        common.SMALL_8,
        common.BASE_8,
        common.FIVE_CROPS,
        common.WHOLE_TILES,
        common.PROBE,
        common.training_length(3, None, 16),
        common.frame_sizes(224, 320),
    ],
)
def test_every_key_is_a_setting(shared: dict[str, object]) -> None:
    assert shared.keys() <= known_keys(methods.get("stego").Config).keys()
