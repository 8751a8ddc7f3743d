"""HP's settings: their bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.hp import HPConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0.04),
        ("denominator_share", 0),
        ("weighting", "apart"),
        ("affinity", "none"),
        ("decay", 1.1),
        ("renewal_steps", 0),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        HPConfig.model_validate({key: value})


def test_pools_may_follow_the_run() -> None:
    assert HPConfig(renewal_steps=None).renewal_steps is None
