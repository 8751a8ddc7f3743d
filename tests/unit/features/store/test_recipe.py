from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.features import BACKBONE, FRAME, IMAGES, TEXTONS, vit, wanted
from usseg_ray.core.config import BackboneConfig, JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.core.views import Crops, Frame
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store import recipe as feature_recipe
from usseg_ray.features.store.recipe import (
    EntryManifest,
    Recipe,
    Views,
    make_recipe,
    needs_of,
    parts_of,
    row_bytes,
    weights_digest,
)

FIVE = Crops("five", ratios=(0.5,))
RECIPE = Recipe(
    backbone=TEXTONS,
    weights="0" * 64,
    frame=FRAME,
    crops=FIVE,
    views=Views(draws=2, jitter=JitterConfig()),
    data="1" * 64,
)
CHANGES: dict[str, list[dict[str, Any]]] = {
    "backbone": [
        {"backbone": TEXTONS.model_copy(update={"name": "resnet18"})},
        {"backbone": TEXTONS.model_copy(update={"layer": 3})},
        {"backbone": TEXTONS.model_copy(update={"timm_args": {"num_classes": 0}})},
        {"backbone": TEXTONS.model_copy(update={"mean": (0.1, 0.1, 0.1)})},
        {"backbone": TEXTONS.model_copy(update={"facet": "key"})},
        {"backbone": TEXTONS.model_copy(update={"debias": 8})},
        {"backbone": TEXTONS.model_copy(update={"normalise": "centred"})},
        {"backbone": TEXTONS.model_copy(update={"token_mean": (0.5,)})},
        {"backbone": TEXTONS.model_copy(update={"token_std": (0.5,)})},
    ],
    "weights": [{"weights": "2" * 64}],
    "frame": [
        {"frame": Frame(48)},
        {"frame": Frame(32, "squash")},
        {"frame": Frame(32, filter="nearest")},
    ],
    "crops": [
        {"crops": None},
        {"crops": Crops("ten", ratios=(0.5,))},
        {"crops": Crops("five", ratios=(0.5, 0.7))},
        {"crops": Crops("five", ratios=(0.5,), jpeg=75)},
        {"crops": Crops("five", ratios=(0.5,), filter="nearest")},
    ],
    "views": [
        {"views": None},
        {"views": Views(draws=3, jitter=JitterConfig())},
        {"views": Views(draws=2, jitter=JitterConfig(hue=0.2))},
    ],
    "arithmetic": [{"arithmetic": "bfloat16"}],
    "preprocessing": [{"preprocessing": feature_recipe.PREPROCESSING + 1}],
    "data": [{"data": "2" * 64}],
}


def test_every_ingredient_is_changed_below() -> None:
    # There is one number format only so far; it is in the recipe for the day there are two.
    assert CHANGES.keys() | {"dtype"} == Recipe.model_fields.keys()


@pytest.mark.parametrize(
    "change", [change for changes in CHANGES.values() for change in changes], ids=str
)
def test_any_change_makes_another_key(change: dict[str, Any]) -> None:
    assert RECIPE.model_copy(update=change).key != RECIPE.key


def test_the_number_format_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RECIPE.key
    assert RECIPE.model_copy(update={"dtype": "float32"}).key != before


def test_keys_do_not_change_by_being_written_down() -> None:
    again = Recipe.model_validate_json(RECIPE.model_dump_json())
    assert again == RECIPE
    assert again.key == RECIPE.key
    assert len(RECIPE.key) == feature_recipe.KEY_DIGITS


def test_where_weights_lie_and_what_is_said_of_them_does_not_matter(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    keys = set()
    for note in ("", "said"):
        folder = tmp_path / f"weights{note}"
        folder.mkdir()
        config = vit(folder).model_copy(update={"note": note})
        asked = wanted(tmp_path / "set", config=config, backbone=build_backbone(config))
        keys.add(asked.entry.key)
        assert asked.backbone.weights == config.weights
    assert len(keys) == 1


def test_other_weights_are_another_entry(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    configs = [vit(tmp_path, seed) for seed in (0, 1)]
    keys = {
        wanted(tmp_path / "set", config=c, backbone=build_backbone(c)).entry.key for c in configs
    }
    assert len(keys) == 2


def test_a_network_says_which_layer_it_is_read_at(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    config = vit(tmp_path)
    last, first = (config.model_copy(update={"layer": layer}) for layer in (1, 0))
    keys = [
        wanted(tmp_path / "set", config=c, backbone=build_backbone(c)).entry.key
        for c in (config, last, first)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_weights_are_hashed_with_names_types_and_shapes() -> None:
    def digest(**tensors: torch.Tensor) -> str:
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_digest(module)

    zeros = torch.zeros(4)
    different = [
        digest(a=zeros),
        digest(b=zeros),
        digest(a=zeros.int()),
        digest(a=zeros.view(2, 2)),
        digest(a=zeros, b=torch.tensor(1.0)),
        digest(a=torch.tensor([0.0, 0, 0, 1e-30])),
    ]
    assert len(set(different)) == len(different)
    assert digest(a=zeros) == digest(a=torch.zeros(4))
    assert digest(a=torch.arange(4.0).view(2, 2).T) == digest(a=torch.tensor([[0.0, 2], [1, 3]]))


def test_other_shards_are_another_entry_and_other_splits_are_not(tmp_path: Path) -> None:
    tiny.write(tmp_path / "one")
    tiny.write(tmp_path / "fewer", splits={"train": IMAGES - 1})
    tiny.write(tmp_path / "alone", splits={"train": IMAGES})
    one, fewer, alone = (wanted(tmp_path / n).entry.key for n in ("one", "fewer", "alone"))
    assert one != fewer
    assert one == alone


@pytest.mark.parametrize("crops", [Crops(), Crops("five", flip=True)])
def test_what_is_drawn_anew_is_not_stored(tmp_path: Path, crops: Crops) -> None:
    manifest = tiny.write(tmp_path)
    with pytest.raises(UserError, match=r"random .* not stored.*data\.crops=ten"):
        make_recipe(TEXTONS, BACKBONE, manifest, "train", frame=FRAME, crops=crops)


def test_whole_images_are_not_stored(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path)
    with pytest.raises(UserError, match="differ in shape"):
        make_recipe(TEXTONS, BACKBONE, manifest, "train", frame=Frame(32, "whole"))


def test_the_scale_of_random_crops_does_not_matter_to_fixed_ones(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    crops = [Crops("five", scale) for scale in (0.5, 1.0)]
    assert len({wanted(tmp_path, crops=c).entry.key for c in crops}) == 1


@pytest.mark.parametrize(
    ("needs", "parts"),
    [
        (Needs(), ("tokens",)),
        (Needs(attention="cls"), ("tokens", "saliency_cls")),
        (Needs(attention="minhead"), ("tokens", "saliency_minhead")),
        (Needs(local_attention=True), ("tokens", "local")),
        (Needs(attention="cls", local_attention=True), ("tokens", "saliency_cls", "local")),
    ],
)
def test_what_a_method_needs_is_what_is_stored(needs: Needs, parts: tuple[Any, ...]) -> None:
    assert parts_of(needs) == parts
    assert needs_of(parts) == (needs,)


def test_two_reductions_of_attention_take_two_passes() -> None:
    passes = needs_of(("tokens", "saliency_cls", "saliency_minhead", "local"))
    assert passes == (Needs("cls", local_attention=True), Needs("minhead"))


def test_coco_by_a_small_vit_is_as_large_as_it_is() -> None:
    assert 118_287 * row_bytes(("tokens",), 384, 28) == pytest.approx(71e9, rel=0.01)
    assert 5 * 118_287 * row_bytes(("tokens",), 384, 28) == pytest.approx(356e9, rel=0.01)
    # Nine weights a patch in place of 784.
    assert row_bytes(("local",), 384, 28) == 9 * 784 * 2
    assert row_bytes(("saliency_cls",), 384, 28) == 784 * 2


def test_a_manifest_says_everything_in_words(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    views = Views(draws=2, jitter=JitterConfig(hue=0.07))
    entry = wanted(tmp_path, crops=Crops("ten", ratios=(0.5,), jpeg=75), views=views).entry
    assert EntryManifest.model_validate_json(entry.model_dump_json()) == entry
    said = " ".join(entry.says.values())
    for word in (
        *(
            "tiny, split train, 14 images",
            "textons",
            "32 x 32 px",
            "ten crops of 0.5",
            "JPEG at 75",
        ),
        *("2 fixed photometric draws", "hue 0.07", "float32", "float16", "version 1"),
        entry.recipe.weights[:12],
    ):
        assert word in said
    assert "layer" in entry.says


def test_entries_of_version_0_1_0_are_found() -> None:
    # Before facets and directions of position could be chosen.
    assert RECIPE.key == "5f8029294f730721bc60"


def test_an_entry_counts_its_rows(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    views = Views(draws=2, jitter=JitterConfig())
    entry = wanted(tmp_path, crops=FIVE, views=views).entry
    assert (entry.rows_per_image, entry.rows) == (10, 140)
    # A shard holds whole images, however many rows they are.
    assert (entry.images_per_shard, entry.num_shards, entry.rows_per_shard) == (1, 14, 10)
    plain = wanted(tmp_path).entry
    assert (plain.num_shards, plain.images_of(4)) == (5, (12, 14))
    assert plain.num_bytes(("tokens",)) == 14 * 15 * 16 * 2


def test_an_unknown_split_is_told(tmp_path: Path) -> None:
    manifest = tiny.write(tmp_path)
    with pytest.raises(UserError, match="no split 'nowhere'"):
        make_recipe(BackboneConfig(name="textons"), BACKBONE, manifest, "nowhere", frame=FRAME)
