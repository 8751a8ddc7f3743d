"""ACSeg's settings: their bounds, and those of its generator."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.settings.acseg import ACSegConfig, GeneratorConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_prototypes", 257),
        ("num_blocks", 0),
        ("norm", "batch"),
        ("prototype_init", "zeros"),
        ("whiten", 1.1),
        ("gamma", 0),
        ("background_score", "mean"),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        ACSegConfig.model_validate({key: value})


def test_the_generators_are_among_them() -> None:
    assert issubclass(ACSegConfig, GeneratorConfig)
    assert ACSegConfig(num_prototypes=4) != ACSegConfig()
