import pytest

from usseg_ray.features.presets import PRESETS as BACKBONES
from usseg_ray.features.presets import backbone_settings
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.presets import PRESETS, find_preset
from usseg_ray.sweeps.published.preset import Preset
from usseg_ray.sweeps.published.scores import NETWORKS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_published_settings_name_what_was_published(preset: Preset) -> None:
    assert preset.network({}) in NETWORKS
    assert preset.reads({"backbone.name": preset.backbone})
    assert not preset.reads({"backbone.name": "another"})
    measured = preset.measured({})
    assert measured["protocol"] == preset.settings.get("protocol", "stego-320")
    assert measured["data.eval_size"] == find_protocol(measured["protocol"]).size


def test_a_backbone_takes_the_place_of_the_presets_but_not_of_a_network_that_learns() -> None:
    network = backbone_settings("dino_b16")
    assert find_preset("hp-potsdam3").network(network) == "vit_base_patch16_224.dino"
    assert find_preset("picie-cityscapes").network(network) == "resnet18.tv_in1k"


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
@pytest.mark.parametrize("preset", ["stego-cityscapes", "cause-tr-cityscapes", "smooseg-potsdam3"])
def test_images_are_tiled_by_the_patches(preset: str, backbone: object) -> None:
    network = backbone_settings(backbone.name)  # type: ignore[attr-defined]
    found = find_preset(preset)
    settings = dict(found.settings) | found.measured(network)
    patch = 14 if "patch14" in network["backbone.name"] else 16
    assert settings["data.train_size"] % patch == settings["data.eval_size"] % patch == 0
    assert find_protocol(settings["protocol"]).size == settings["data.eval_size"]


def test_sizes_of_patches_of_14_are_the_next() -> None:
    found = find_preset("cause-tr-cityscapes").measured(backbone_settings("dinov2_b14"))
    assert found == {"protocol": "stego-322", "data.train_size": 322, "data.eval_size": 322}
    assert find_preset("smooseg-potsdam3").measured(backbone_settings("dinov2_b14")) == {
        "protocol": "smooseg-224",
        "data.train_size": 224,
        "data.eval_size": 224,
    }
