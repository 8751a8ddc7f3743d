"""Settings of k-means: their bounds, and what floors share."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.kmeans import KMeansConfig, SamplingConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("points_per_cluster", 0),
        ("restarts", 0),
        ("spherical", "round"),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        KMeansConfig.model_validate({key: value})


def test_what_floors_share_has_no_kind_of_distance() -> None:
    assert {*KMeansConfig.model_fields} - {*SamplingConfig.model_fields} == {"spherical"}
