"""PiCIE's settings: their bounds, and those of its network."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.picie import PiCIEConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("variant", "other"),
        ("over_clusters", 1),
        ("over_weight", 1.1),
        ("class_weights", "equal"),
        ("network", {"dim": 0}),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        PiCIEConfig.model_validate({key: value})


def test_the_official_code_applies_no_grey() -> None:
    jitter = PiCIEConfig().jitter
    assert (jitter.probability, jitter.grey) == (0.8, 0.0)
