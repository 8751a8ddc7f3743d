"""PriMaPs-EM's settings: their bounds, and the model it starts from."""

from typing import Any

import pytest
from pydantic import ValidationError

from usseg_ray.core.config import Origin
from usseg_ray.settings.primaps import PriMaPsConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("psi", 0),
        ("explained", 1.1),
        ("scale", 0),
        ("decay", -0.1),
        ("origin", {"method": "stego"}),
    ],
)
def test_values_out_of_bounds_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        PriMaPsConfig.model_validate({key: value})


def test_an_origin_stays_what_it_was() -> None:
    origin = Origin(method="stego", num_clusters=3, settings={"dim": 8}, sha256="0")
    config = PriMaPsConfig(init_from="x", origin=origin)
    assert PriMaPsConfig.model_validate(config.model_dump(mode="json")) == config
