"""The adapter of COCO-Stuff."""

from pathlib import Path

import pytest

from tests.trees import plant
from tests.unit.prepare.sets.contract import (
    check_classes,
    check_emptied,
    check_missing,
    check_value,
    check_void,
)
from usseg_ray.prepare.sets import find_set


@pytest.mark.parametrize(
    ("name", "classes", "things"),
    [
        ("cocostuff27", 27, 12),
        ("cocostuff27-curated", 27, 12),
        ("cocostuff81", 81, 80),
        ("cocostuff171", 171, 80),
    ],
)
def test_classes_are_those_of_the_protocol(name: str, classes: int, things: int) -> None:
    check_classes(name, classes, things)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("cocostuff27", 0, "person"),
        ("cocostuff27", 181, "solid"),
        ("cocostuff27", 105, "sky"),
        ("cocostuff81", 0, "person"),
        ("cocostuff81", 89, "toothbrush"),
        ("cocostuff81", 91, "stuff"),
        ("cocostuff171", 12, "stop sign"),
        ("cocostuff171", 91, "banner"),
        ("cocostuff171", 181, "wood"),
    ],
)
def test_label_values_mean_what_their_makers_say(name: str, value: int, label: str) -> None:
    check_value(name, value, label)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cocostuff27", 255),
    ],
)
def test_void_is_ignored(name: str, value: int) -> None:
    check_void(name, value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("cocostuff27", "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"),
        ("cocostuff27-curated", "curated/train2017/Coco164kFull_Stuff_Coarse_7.txt"),
        ("cocostuff81", "curated/train2017/Coco164kFull_Stuff_Coarse.txt"),
        ("cocostuff27", "annotations/val2017"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str) -> None:
    check_missing(tmp_path, name, missing)


@pytest.mark.parametrize(
    ("name", "emptied"),
    [
        ("cocostuff27", "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"),
    ],
)
def test_a_split_without_images_is_an_error(tmp_path: Path, name: str, emptied: str) -> None:
    check_emptied(tmp_path, name, emptied)


def test_the_curated_set_learns_from_fewer_images(tmp_path: Path) -> None:
    root = plant(tmp_path, "cocostuff27")
    full, curated = (find_set(f"cocostuff27{end}").discover(root) for end in ("", "-curated"))
    learnt, fewer = (
        {entry.id for split in ("train", "val") for entry in images.splits[split]}
        for images in (full, curated)
    )
    assert fewer < learnt
    assert curated.splits["test"] == full.splits["test"]
