"""`--backbone`: the table against timm, and files beside weights."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from tests.conftest import PROJECT
from usseg_ray.core.config import BackboneConfig, build_config, flatten
from usseg_ray.core.errors import UserError
from usseg_ray.features.backbones import TextonFeatures, TimmFeatures, build_backbone
from usseg_ray.features.presets import (
    PRESETS,
    BackbonePreset,
    backbone_settings,
    find_backbone,
    read_backbone,
)
from usseg_ray.features.textons import TEXTONS
from usseg_ray.methods import get

NETWORKS = [preset for preset in PRESETS if preset.config.name != TEXTONS]

LICENCES = {
    "apache-2.0": "Apache-2.0",
    "dinov3-license": "DINOv3 License",
    "fair-noncommercial-research-license": "FAIR Noncommercial Research License",
}


def test_every_preset_has_a_name_of_its_own() -> None:
    names = [preset.name for preset in PRESETS]
    assert len(set(names)) == len(names) == 15


@pytest.mark.parametrize("preset", NETWORKS, ids=lambda preset: preset.name)
def test_a_network_is_what_timm_says(preset: BackbonePreset) -> None:
    published = timm.get_pretrained_cfg(preset.config.name)
    assert published is not None
    assert published.has_weights
    assert LICENCES[published.license] == preset.licence


@pytest.mark.parametrize("preset", NETWORKS, ids=lambda preset: preset.name)
def test_a_network_gives_patch_features(preset: BackbonePreset) -> None:
    with torch.device("meta"):
        spec = TimmFeatures(preset.config, pretrained=False).spec
    told = preset.name.partition("_")[2].removesuffix("_reg").removesuffix("_sat")
    assert spec.patch_size == int(told.lstrip("sblpu") or 16)


def test_textons_are_a_preset_of_the_filter_bank() -> None:
    assert isinstance(build_backbone(find_backbone("textons").config), TextonFeatures)


def test_the_page_lists_every_preset_as_it_is() -> None:
    page = (PROJECT / "docs" / "features.md").read_text()
    for preset in PRESETS:
        row = f"| `{preset.name}` | `{preset.config.name}` | {preset.licence} | {preset.about} |"
        assert row in page


def test_a_preset_assigns_its_network_whole_and_nothing_that_it_does_not_say() -> None:
    assert backbone_settings("dino_s8") == {
        "backbone.name": "vit_small_patch8_224.dino",
        "backbone.weights": None,
        "backbone.timm_args": {},
        "backbone.mean": None,
        "backbone.std": None,
        "backbone.note": "",
    }
    found = backbone_settings("mobilenetv2")
    assert (found["backbone.layer"], found["backbone.note"]) == (3, "supervised-ImageNet backbone")


def test_an_unknown_name_says_the_nearest_and_the_other_ways() -> None:
    with pytest.raises(UserError, match=r"'dino_s1'; did you mean 'dino_s16'\?.*FILE\.yaml"):
        backbone_settings("dino_s1")
    with pytest.raises(UserError, match=r"any timm model goes by --set backbone\.name=NAME"):
        backbone_settings("resnet50")


def written(folder: Path, tree: object, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


ARGS = {"num_classes": 7}

SAYS: dict[str, Any] = {
    "name": "test_vit",
    "layer": [1, 3],
    "facet": "key",
    "debias": 2,
    "weights": "sub/w.safetensors",
    "timm_args": ARGS,
    "mean": [0.5, 0.25, 0.5],
    "std": [1, 1, 1],
    "note": "weights of mine",
}


def test_a_file_beside_weights_is_a_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model("test_vit", pretrained=False, **ARGS)
    (tmp_path / "sub").mkdir()
    save_file(model.state_dict(), tmp_path / "sub" / "w.safetensors")
    written(tmp_path, SAYS)
    monkeypatch.chdir(tmp_path.parent)
    found = backbone_settings(f"{tmp_path.name}/mine.yaml")
    expected = SAYS | {"weights": str(tmp_path / "sub" / "w.safetensors")}
    assert found == {f"backbone.{key}": value for key, value in expected.items()}
    # Below it something for another network, above it the user's own word.
    below = {"backbone.mean": [0, 0, 0], "backbone.patch_size": 4}
    above = {"backbone.debias": 0}
    config = build_config(get("kmeans").Config, [below, found, above]).backbone
    assert flatten(config) == flatten(
        BackboneConfig.model_validate(expected | {"debias": 0, "patch_size": 4})
    )
    backbone = build_backbone(config)
    assert isinstance(backbone, TimmFeatures)
    for name, parameter in model.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[name], parameter)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ("just text", r"mine\.yaml: expected a key a line"),
        ("name: [", r"mine\.yaml is not YAML"),
        ({"layer": 3}, r"mine\.yaml: name is missing"),
        ({"name": "test_vit", "layers": 3}, r"unknown key 'layers'; did you mean 'layer'\?"),
        ({"name": "test_vit", "zzz": 3}, r"unknown key 'zzz'; the keys are name, weights, "),
        ({"name": "test_vit", 3: 3}, r"unknown key '3'"),
        ({"name": 3}, r"mine\.yaml: name = 3: Input should be a valid string\.$"),
        ({"name": "test_vit", "layer": "last"}, r"mine\.yaml: layer = 'last': "),
        ({"name": "test_vit", "layer": True}, r"mine\.yaml: layer = True: "),
        ({"name": "test_vit", "mean": [0.5]}, r"mine\.yaml: mean = \[0\.5\]: "),
        ({"name": "test_vit", "debias": -1}, r"mine\.yaml: debias = -1: "),
        ({"name": "test_vit", "facet": "keys"}, r"mine\.yaml: facet = 'keys': "),
        ("name: test_vit\nnote: 2026-01-02\n0x1: 2", r"unknown key '1'"),
        ({"name": "test_vit", "timm_args": [1]}, r"mine\.yaml: timm_args = \[1\]: "),
        ({"name": "test_vit", "weights": "w.bin"}, r"mine\.yaml: weights = 'w\.bin': no such file"),
        ({"name": "test_vit", "weights": ""}, r"mine\.yaml: weights = '': no such file"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_in_a_line(tmp_path: Path, tree: object, told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        read_backbone(written(tmp_path, tree))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(UserError, match=r"--backbone absent\.yaml: no such file\."):
        backbone_settings("absent.yaml")


def test_the_names_are_known_without_torch() -> None:
    code = "import sys, usseg_ray.features.presets; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
