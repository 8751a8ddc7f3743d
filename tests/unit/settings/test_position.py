"""Settings of floors on a grid: their bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.position import PatchConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 0),
        ("points_per_cluster", 0),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        PatchConfig.model_validate({key: value})


def test_a_patch_may_be_a_pixel() -> None:
    assert PatchConfig(patch_size=1).patch_size == 1
