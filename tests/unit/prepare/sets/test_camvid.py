"""The adapter of CamVid."""

from pathlib import Path

import pytest

from tests.unit.prepare.sets.contract import (
    check_classes,
    check_emptied,
    check_missing,
    check_value,
    check_void,
)


@pytest.mark.parametrize(
    ("name", "classes", "things"),
    [
        ("camvid", 11, 0),
    ],
)
def test_classes_are_those_of_the_protocol(name: str, classes: int, things: int) -> None:
    check_classes(name, classes, things)


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("camvid", 8, "car"),
    ],
)
def test_label_values_mean_what_their_makers_say(name: str, value: int, label: str) -> None:
    check_value(name, value, label)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("camvid", 11),
    ],
)
def test_void_is_ignored(name: str, value: int) -> None:
    check_void(name, value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("camvid", "valannot"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, missing: str) -> None:
    check_missing(tmp_path, name, missing)


@pytest.mark.parametrize(
    ("name", "emptied"),
    [
        ("camvid", "test"),
    ],
)
def test_a_split_without_images_is_an_error(tmp_path: Path, name: str, emptied: str) -> None:
    check_emptied(tmp_path, name, emptied)
