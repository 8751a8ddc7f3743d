from typing import Any

import pytest

from usseg_ray.data.library import SYNTHETIC
from usseg_ray.features.textons import TEXTONS
from usseg_ray.methods.acseg import ACSeg
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.scoring.protocols import DEFAULT, protocol_settings
from usseg_ray.sweeps.defaults import EMBEDDED, data_defaults


def test_on_the_embedded_set_a_method_adds_to_what_the_set_brings() -> None:
    own = ACSeg.defaults
    found = data_defaults(ACSeg, SYNTHETIC, {})
    assert found.items() >= {**own.schedule, **EMBEDDED, **own.embedded, **own.textons}.items()
    # The set shortens the schedule, and the method the set's.
    assert found["train.steps_per_epoch"] is None
    assert found["train.epochs"] == own.embedded["train.epochs"] < EMBEDDED["train.epochs"]
    assert found["train.batch_size"] == EMBEDDED["train.batch_size"]


def test_a_prepared_set_brings_the_schedule_and_the_protocol_alone() -> None:
    found = data_defaults(ACSeg, "camvid", {"protocol": "stego-320"})
    assert found == {**ACSeg.defaults.schedule, **protocol_settings("stego-320")}
    assert data_defaults(KMeans, "camvid", {}) == protocol_settings(DEFAULT)


@pytest.mark.parametrize(
    ("data", "chosen", "textons"),
    [
        ("camvid", {}, False),
        ("camvid", {"backbone.name": TEXTONS}, True),
        (SYNTHETIC, {"backbone.name": "resnet18"}, False),
    ],
)
def test_the_backbone_that_is_chosen_decides(
    data: str, chosen: dict[str, Any], textons: bool
) -> None:
    found = data_defaults(ACSeg, data, chosen)
    assert (found.get("method.norm") == "pre") == textons
