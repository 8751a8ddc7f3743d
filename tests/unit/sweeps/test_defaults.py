from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.data.library import SYNTHETIC
from usseg_ray.features.backbones import TEXTONS
from usseg_ray.sweeps.defaults import EMBEDDED, ON_TEXTONS, SCHEDULES, Layer, data_defaults
from usseg_ray.sweeps.presets import find_preset, preset_settings


def test_a_methods_own_settings_lie_above_the_shared_ones() -> None:
    layer = Layer({"a": 1, "b": 1}, {"acseg": {"b": 2}})
    assert layer.of("acseg") == {"a": 1, "b": 2}
    assert layer.of("kmeans") == {"a": 1, "b": 1}


def test_the_embedded_data_shortens_a_schedule_and_brings_textons() -> None:
    found = data_defaults("acseg", SYNTHETIC, {})
    assert found == SCHEDULES.of("acseg") | EMBEDDED.of("acseg") | ON_TEXTONS.of("acseg")
    assert found["train.steps_per_epoch"] is None


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
    found = data_defaults("acseg", data, chosen)
    assert (found.get("method.norm") == "pre") == textons


def test_a_preset_is_for_its_method_alone() -> None:
    preset = find_preset("acseg-voc2012")
    assert preset_settings("acseg-voc2012", ["acseg"]) == preset.settings
    assert preset_settings(None, ["acseg", "kmeans"]) == {}
    for methods in (["kmeans"], ["acseg", "kmeans"]):
        with pytest.raises(UserError, match="is for method 'acseg' alone, not for"):
            preset_settings("acseg-voc2012", methods)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'acseg-voc'; did you mean 'acseg-voc2012'\? Presets: "):
        find_preset("acseg-voc")
