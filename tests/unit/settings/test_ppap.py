"""PPAP's settings: their bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.ppap import PPAPConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block", "old"),
        ("positive", 1.1),
        ("rounds", -1),
        ("split", 0),
        ("temperature", 0.04),
        ("dropout", 1),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        PPAPConfig.model_validate({key: value})


def test_proxies_may_stay_where_they_are() -> None:
    assert PPAPConfig(rounds=0).rounds == 0
