"""SmooSeg's settings: their bounds."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.smooseg import SmooSegConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clustering", "probe"),
        ("dropout", 1),
        ("decay", 1.1),
        ("shift_intra", -2),
        ("prototype_lr", 0),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        SmooSegConfig.model_validate({key: value})


def test_prototypes_are_the_official_clusters() -> None:
    assert SmooSegConfig().clustering == "prototypes"
