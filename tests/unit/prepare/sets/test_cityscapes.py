"""The adapter of Cityscapes."""

from pathlib import Path

import pytest

from tests.trees import VALUES, plant
from tests.unit.prepare.sets.contract import (
    check_classes,
    check_emptied,
    check_missing,
    check_value,
    check_void,
)
from usseg_ray.data.decode import decode_label
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.sets import find_set


@pytest.mark.parametrize(
    ("name", "classes", "things"),
    [
        ("cityscapes27", 27, 10),
        ("cityscapes19", 19, 8),
    ],
)
def test_classes_are_those_of_the_protocol(name: str, classes: int, things: int) -> None:
    check_classes(name, classes, things)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("cityscapes27", 7, "road"),
        ("cityscapes27", 33, "bicycle"),
        ("cityscapes19", 11, "building"),
        ("cityscapes19", 33, "bicycle"),
    ],
)
def test_label_values_mean_what_their_makers_say(name: str, value: int, label: str) -> None:
    check_value(name, value, label)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cityscapes27", 6),
        ("cityscapes27", 255),
        ("cityscapes19", 9),
    ],
)
def test_void_is_ignored(name: str, value: int) -> None:
    check_void(name, value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("cityscapes27", "leftImg8bit/val"),
        ("cityscapes27", "gtFine/train"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str) -> None:
    check_missing(tmp_path, name, missing)


@pytest.mark.parametrize(
    ("name", "emptied"),
    [
        ("cityscapes27", "leftImg8bit/val"),
    ],
)
def test_a_split_without_images_is_an_error(tmp_path: Path, name: str, emptied: str) -> None:
    check_emptied(tmp_path, name, emptied)


def test_labels_become_class_indices(tmp_path: Path) -> None:
    images = find_set("cityscapes19").discover(plant(tmp_path, "cityscapes19"))
    inspector = Inspector(images.meaning)
    row = next(iter(inspector.rows(images.splits["test"])))
    assert row.label is not None
    found = decode_label(row.label).flatten()[: len(VALUES["cityscapes19"])].tolist()
    void = 255
    ground_and_walls = [0, 1, void, void, 2, 3, 4, void, void, void]
    objects_and_nature = [5, void, 6, 7, 8, 9, 10]
    moving = [11, 12, 13, 14, 15, void, void, 16, 17, 18]
    assert found == [void] * 7 + ground_and_walls + objects_and_nature + moving + [void]
