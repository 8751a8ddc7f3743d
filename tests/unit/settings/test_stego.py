"""STEGO's settings: their bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.stego import STEGOConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("neighbours", 0),
        ("feature_samples", 0),
        ("negatives", 0),
        ("shift_negative", 1.1),
        ("weight_inter", -1),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        STEGOConfig.model_validate({key: value})


def test_how_codes_are_grouped_is_among_them() -> None:
    assert {"clustering", "cluster_lr", "context"} < {*STEGOConfig.model_fields}
