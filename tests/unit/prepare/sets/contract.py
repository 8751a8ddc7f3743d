"""What the adapters' tests hold every published set to."""

import shutil
from pathlib import Path

import pytest

from tests.trees import plant
from usseg_ray.core.errors import UserError
from usseg_ray.prepare.sets import find_set


def check_classes(name: str, classes: int, things: int) -> None:
    """Sees how many classes and things there are."""
    benchmark = find_set(name)
    assert (len(benchmark.classes), len(benchmark.things)) == (classes, things)


def check_value(name: str, value: int, label: str) -> None:
    """Sees what class a label value is."""
    benchmark = find_set(name)
    assert benchmark.classes[benchmark.class_of[value]] == label


def check_void(name: str, value: int) -> None:
    """Sees that a label value has no class."""
    assert find_set(name).class_of[value] == 255


def check_missing(tmp_path: Path, name: str, missing: str) -> None:
    """Sees that what is not there is named, and where to get it."""
    root = plant(tmp_path / "here", name)
    (root / missing).rename(tmp_path / "moved")
    with pytest.raises(UserError) as caught:
        find_set(name).discover(root)
    message = str(caught.value)
    assert f"{name} needs {root.resolve() / missing}, which is not there" in message
    assert "Expected: " in message
    assert "Get it from " in message


def check_emptied(tmp_path: Path, name: str, emptied: str) -> None:
    """Sees that a split without images is refused."""
    place = plant(tmp_path, name) / emptied
    if place.is_dir():
        shutil.rmtree(place)
        place.mkdir()
    else:
        place.write_text("\n")
    with pytest.raises(UserError, match=rf"{name} has no image for its split 'test' \(.*\)"):
        find_set(name).discover(tmp_path)
