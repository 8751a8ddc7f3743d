"""The adapter of PASCAL VOC."""

from pathlib import Path

import pytest

from tests.trees import plant
from tests.unit.prepare.sets.contract import check_classes, check_missing, check_value, check_void
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.meaning import Meaning
from usseg_ray.prepare.sets import find_set


@pytest.mark.parametrize(
    ("name", "classes", "things"),
    [
        ("voc2012", 21, 20),
    ],
)
def test_classes_are_those_of_the_protocol(name: str, classes: int, things: int) -> None:
    check_classes(name, classes, things)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("voc2012", 15, "person"),
    ],
)
def test_label_values_mean_what_their_makers_say(name: str, value: int, label: str) -> None:
    check_value(name, value, label)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("voc2012", 255),
    ],
)
def test_void_is_ignored(name: str, value: int) -> None:
    check_void(name, value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str) -> None:
    check_missing(tmp_path, name, missing)


def test_an_unknown_label_value_is_named_and_its_image_kept(tmp_path: Path) -> None:
    images = find_set("voc2012").discover(plant(tmp_path, "voc2012"))
    inspector = Inspector(Meaning(21, 255, {value: value for value in range(20)} | {255: 255}))
    rows = list(inspector.rows(images.entries))
    assert len(rows) == len(images.entries)
    assert inspector.problems
    assert inspector.problems[0].reason.startswith("value 20 is no label of this data set (")
