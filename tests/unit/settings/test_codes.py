"""How codes are grouped: the ways that there are."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from usseg_ray.settings.codes import Clustering, CodeConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clustering", "prototypes"),
        ("cluster_lr", 0),
        ("context", 0),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        CodeConfig.model_validate({key: value})


def test_all_three_ways_are_taken() -> None:
    for way in get_args(Clustering):
        assert CodeConfig(clustering=way).clustering == way
