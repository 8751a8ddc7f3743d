"""Every published preset is a config that exists, and changes what it says it changes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from usseg_ray import methods
from usseg_ray.core.config import build_config, flatten
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.data.reader import crops_of
from usseg_ray.data.transforms import fixed_crop
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.presets import PRESETS, find_preset, preset_settings
from usseg_ray.sweeps.published.preset import Preset


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


def settings(name: str) -> dict[str, Any]:
    return dict(find_preset(name).settings)


@pytest.mark.parametrize(
    ("name", "crops", "batch", "last_kept"),
    [
        ("hp-cocostuff27", 5 * 97_702, 64, False),
        ("hp-cityscapes", 5 * 2975, 64, False),
        ("hp-potsdam3", 4545, 64, False),
        # One of four GPUs, whose shares are filled up.
        ("cause-mlp-cocostuff27", 5 * 97_702 / 4, 16, True),
        ("cause-tr-cocostuff27", 5 * 97_702 / 4, 16, True),
        ("cause-mlp-cityscapes", 5 * 2975 / 4, 16, True),
    ],
)
def test_an_epoch_has_the_official_steps(
    name: str, crops: float, batch: int, last_kept: bool
) -> None:
    found = settings(name)
    assert found["train.batch_size"] == batch
    rounded = math.ceil if last_kept else math.floor
    assert found["train.steps_per_epoch"] == rounded(crops / batch)


def test_the_steps_of_coco_stuff() -> None:
    assert settings("hp-cocostuff27")["train.steps_per_epoch"] == 7632
    assert settings("cause-tr-cocostuff27")["train.steps_per_epoch"] == 7633


@pytest.mark.parametrize("method", ["stego", "hp", "smooseg"])
def test_tiles_are_shown_whole(method: str) -> None:
    config = build_config(methods.get(method).Config, [settings(f"{method}-potsdam3")])
    tile = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    crops = crops_of(config.data)
    cut = fixed_crop(tile, 0, policy=crops.policy, ratios=crops.ratios, jpeg=crops.jpeg)
    assert np.array_equal(cut, tile)
    assert (crops.filter, crops.flip) == ("nearest", False)


def test_smooseg_scores_tiles_at_224_pixels_by_its_own_protocol() -> None:
    protocol = find_protocol(settings("smooseg-potsdam3")["protocol"])
    assert protocol.frame(448) == Frame(224, "centre", "nearest")
    assert protocol.upsampled == "codes"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_says_its_arithmetic(preset: Preset) -> None:
    assert "bfloat16" in preset.source
    assert ("Coarse_7" in preset.source) == (preset.method == "picie" and "coco" in preset.data)


def test_the_page_lists_every_preset_as_it_is() -> None:
    page = (Path(__file__).parents[3] / "docs" / "methods.md").read_text()
    for preset in PRESETS:
        assert f"| `{preset.name}` | {preset.source} |" in page
