"""Backbones in one word: those in use by name, and one of one's own by a file beside its weights.

Either becomes dotted assignments of `backbone.*`, so nothing beyond knows which it was. Free of
torch: the commands list the names in their help.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usseg_ray.core.config import BackboneConfig
from usseg_ray.core.errors import UserError, did_you_mean, unknown_name
from usseg_ray.core.sources import parse_yaml, read_text

_FILES = (".yaml", ".yml")

_NETWORK = ("name", "weights", "timm_args", "mean", "std", "note")
"""Assigned whole: what a preset or a space set for another network never goes with this one."""


@dataclass(frozen=True)
class BackbonePreset:
    """A backbone in use.

    Attributes:
        name: As in `--backbone`.
        licence: Of the weights, as timm or their authors name it.
        about: What it is, in a sentence.
        config: Its settings; only those that it names are assigned, and its network.
    """

    name: str
    licence: str
    about: str
    config: BackboneConfig


_APACHE = "Apache-2.0"

_DINOV3 = "DINOv3 License"

_EUPE = "FAIR Noncommercial Research License"

_LIMITS = {
    _DINOV3: "Meta's licence limits uses, and asks to be passed on and named with what is built "
    "on the weights.",
    _EUPE: "For research that is not commercial alone.",
}

PRESETS: tuple[BackbonePreset, ...] = (
    BackbonePreset(
        "textons",
        "none needed",
        "Colours and oriented filters, 8-pixel patches; has no weights.",
        BackboneConfig(name="textons"),
    ),
    BackbonePreset(
        "dino_s16",
        _APACHE,
        "DINO ViT-S/16, self-supervised on ImageNet; the default.",
        BackboneConfig(name="vit_small_patch16_224.dino"),
    ),
    BackbonePreset(
        "dino_s8",
        _APACHE,
        "DINO ViT-S/8, four times the tokens; what most of `--preset` take.",
        BackboneConfig(name="vit_small_patch8_224.dino"),
    ),
    BackbonePreset(
        "dino_b16",
        _APACHE,
        "DINO ViT-B/16.",
        BackboneConfig(name="vit_base_patch16_224.dino"),
    ),
    BackbonePreset(
        "dino_b8",
        _APACHE,
        "DINO ViT-B/8, what the larger ones of `--preset` take.",
        BackboneConfig(name="vit_base_patch8_224.dino"),
    ),
    BackbonePreset(
        "dinov2_s14",
        _APACHE,
        "DINOv2 ViT-S/14, as publications have it; image sizes are multiples of 14.",
        BackboneConfig(name="vit_small_patch14_dinov2.lvd142m"),
    ),
    BackbonePreset(
        "dinov2_b14",
        _APACHE,
        "DINOv2 ViT-B/14, as publications have it; image sizes are multiples of 14.",
        BackboneConfig(name="vit_base_patch14_dinov2.lvd142m"),
    ),
    BackbonePreset(
        "dinov2_s14_reg",
        _APACHE,
        "DINOv2 ViT-S/14 with registers; image sizes are multiples of 14.",
        BackboneConfig(name="vit_small_patch14_reg4_dinov2.lvd142m"),
    ),
    BackbonePreset(
        "dinov2_b14_reg",
        _APACHE,
        "DINOv2 ViT-B/14 with registers; image sizes are multiples of 14.",
        BackboneConfig(name="vit_base_patch14_reg4_dinov2.lvd142m"),
    ),
    BackbonePreset(
        "dinov3_s16",
        _DINOV3,
        "DINOv3 ViT-S/16; the licence limits uses and asks for attribution.",
        BackboneConfig(name="vit_small_patch16_dinov3.lvd1689m"),
    ),
    BackbonePreset(
        "dinov3_splus16",
        _DINOV3,
        "DINOv3 ViT-S+/16, between S and B; licence as above.",
        BackboneConfig(name="vit_small_plus_patch16_dinov3.lvd1689m"),
    ),
    BackbonePreset(
        "dinov3_b16",
        _DINOV3,
        "DINOv3 ViT-B/16; licence as above.",
        BackboneConfig(name="vit_base_patch16_dinov3.lvd1689m"),
    ),
    BackbonePreset(
        "dinov3_l16_sat",
        _DINOV3,
        "DINOv3 ViT-L/16, learnt from satellite images; licence as above.",
        BackboneConfig(name="vit_large_patch16_dinov3.sat493m"),
    ),
    BackbonePreset(
        "eupe_s16",
        _EUPE,
        "EUPE ViT-S/16, distilled from several teachers; for research alone.",
        BackboneConfig(name="vit_small_patch16_dinov3_qkvb.eupe_lvd1689m"),
    ),
    BackbonePreset(
        "mobilenetv2",
        _APACHE,
        "MobileNetV2, quick on a CPU; learnt with ImageNet's labels, which every score says.",
        BackboneConfig(
            name="mobilenetv2_100.ra_in1k", layer=3, note="supervised-ImageNet backbone"
        ),
    ),
)


def backbone_settings(given: str) -> dict[str, Any]:
    """Reads `--backbone`.

    Args:
        given: Name of a preset, or the path of a YAML file (`.yaml`, `.yml`).

    Returns:
        Dotted keys and plain values: the network whole, and what else is said.

    Raises:
        UserError: There is no such preset or file, or the file is wrong; says where.
    """
    is_file = Path(given).suffix.lower() in _FILES
    config = read_backbone(Path(given)) if is_file else find_backbone(given).config
    said = {*_NETWORK, *config.model_fields_set}
    values = config.model_dump(mode="json", include=said)
    return {f"backbone.{key}": value for key, value in values.items()}


def find_backbone(name: str) -> BackbonePreset:
    """Finds a backbone preset.

    Args:
        name: As in `--backbone`.

    Raises:
        UserError: There is none of that name; says the nearest, and the other ways.
    """
    known = {preset.name: preset for preset in PRESETS}
    if name in known:
        return known[name]
    raise UserError(
        f"{unknown_name('backbone', name, known)} One of your own is a FILE.yaml "
        "(docs/features.md); any timm model goes by --set backbone.name=NAME."
    )


@dataclass(frozen=True)
class Licence:
    """What the weights of a backbone may be used for.

    Attributes:
        name: As timm or their authors name it.
        limits: What it does not let one do, in a sentence; empty where nothing is known.
    """

    name: str
    limits: str = ""


def licence_of(config: BackboneConfig) -> Licence:
    """Finds the licence of a backbone's weights, by the network's name.

    Args:
        config: The backbone; weights of a file are said to be of the network's own licence only
            where nothing but the name is known.
    """
    known = {preset.config.name: preset.licence for preset in PRESETS}
    name = known.get(config.name)
    if name is None or (config.weights is not None and config.note):
        return Licence("unknown", "Ask whoever made the weights what they may be used for.")
    return Licence(name, _LIMITS.get(name, ""))


def read_backbone(path: Path) -> BackboneConfig:
    """Reads the settings of a backbone from a file, whose `weights` lie at a path from there.

    Args:
        path: A YAML mapping of the keys of `BackboneConfig`; `name` must be among them.

    Returns:
        The settings; `weights` is absolute.

    Raises:
        UserError: The file, a key, a value or the weights are missing or wrong; says which.
    """
    config = _checked(path, _tree(path))
    if config.weights is None:
        return config
    weights = path.absolute().parent / config.weights
    if not weights.is_file():
        raise UserError(
            f"{path}: weights = {config.weights!r}: no such file; the path goes from the folder "
            "of the YAML file."
        )
    return config.model_copy(update={"weights": str(weights)})


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(read_text(path), str(path))
    except FileNotFoundError:
        raise UserError(f"--backbone {path}: no such file.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a key a line, such as `name: resnet50`.")
    known = list(BackboneConfig.model_fields)
    for key in map(str, tree):
        if key not in known:
            hint = did_you_mean(key, known, f"; the keys are {', '.join(known)}.")
            raise UserError(f"{path}: unknown key {key!r}{hint}")
    if "name" not in tree:
        raise UserError(f"{path}: name is missing: a timm model's, or textons.")
    return tree


def _checked(path: Path, tree: dict[str, Any]) -> BackboneConfig:
    # As JSON, where lists are what tuples are written as and nothing else is made to fit.
    try:
        return BackboneConfig.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise UserError(f"{path}: {key} = {tree[key]!r}: {first['msg']}.") from None
