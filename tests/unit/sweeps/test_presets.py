"""Every published preset is a config that exists, and changes what it says it changes."""

import pytest

from usseg_ray import methods
from usseg_ray.core.config import build_config, flatten
from usseg_ray.sweeps.presets import PRESETS, Preset


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
