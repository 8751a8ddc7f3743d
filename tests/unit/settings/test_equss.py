"""EQUSS's settings: their bounds, and those that must fit together."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.equss import EQUSSConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codebook_size", 1),
        ("commitment", -1),
        ("shift_inter", 2),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        EQUSSConfig.model_validate({key: value})


def test_channels_part_evenly() -> None:
    with pytest.raises(ValidationError, match=r"10 channels .* into 4 equal groups"):
        EQUSSConfig(dim=10, subspaces=4)
