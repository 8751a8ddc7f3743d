"""The colour floor's settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.colour import ColourConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 0),
        ("restarts", 0),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        ColourConfig.model_validate({key: value})


def test_height_may_weigh_nothing_but_not_less() -> None:
    with pytest.raises(ValidationError, match="height_weight"):
        ColourConfig(height_weight=-0.1)
    assert ColourConfig(height_weight=0).height_weight == 0
