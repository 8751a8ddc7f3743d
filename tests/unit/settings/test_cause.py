"""CAUSE's settings: their bounds, and what its heads decide."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.cause import CAUSEConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head", "cnn"),
        ("temperature", 0.02),
        ("positive_above", 1),
        ("dropout", 1),
        ("bank_share", 0),
        ("clustering", "auto?"),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        CAUSEConfig.model_validate({key: value})


def test_what_a_head_decides_is_unset() -> None:
    assert CAUSEConfig().probe_epochs is None
    assert CAUSEConfig().clip_norm is None
