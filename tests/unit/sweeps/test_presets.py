"""Every published preset is a config that exists, and changes what it says it changes."""

import pytest

from usseg_ray import methods
from usseg_ray.core.config import build_config, flatten
from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.presets import PRESETS, Preset, find_preset, preset_settings


def test_every_preset_has_a_name_of_its_own() -> None:
    names = [preset.name for preset in PRESETS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_builds_its_methods_config(preset: Preset) -> None:
    method = methods.get(preset.method)
    built = flatten(build_config(method.Config, [preset.settings]))
    assert {key: built[key] for key in preset.settings} == preset.settings
    assert preset.name.startswith(f"{preset.method}-")
    assert preset.name.endswith(f"-{preset.data}")
    assert preset.source.endswith(".")


def test_a_preset_is_for_its_method_alone() -> None:
    preset = find_preset("acseg-voc2012")
    assert preset_settings("acseg-voc2012", ["acseg"]) == preset.settings
    assert preset_settings(None, ["acseg", "kmeans"]) == {}
    for names in (["kmeans"], ["acseg", "kmeans"]):
        with pytest.raises(UserError, match="is for method 'acseg' alone, not for"):
            preset_settings("acseg-voc2012", names)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'acseg-voc'; did you mean 'acseg-voc2012'\? Presets: "):
        find_preset("acseg-voc")
