"""What all published sets have in common."""

from pathlib import Path

import pytest

from tests.trees import VALUES, plant
from usseg_ray.core.errors import UserError
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.sets import PUBLISHED_SETS, find_set
from usseg_ray.prepare.sets.base import held_out

NAMES = sorted(PUBLISHED_SETS)


@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_is_found_and_readable(tmp_path: Path, name: str) -> None:
    images = find_set(name).discover(plant(tmp_path, name))
    splits = images.splits
    assert list(splits) == ["train", "val", "test"]
    inspector = Inspector(images.meaning)
    rows = list(inspector.rows(images.entries))
    assert inspector.problems == []
    assert len(rows) == len(images.entries)
    assert all(row.label is not None for row in rows)
    assert (rows[0].height, rows[0].width) == (6, 8)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_rank_and_images_that_are_scored_are_apart(tmp_path: Path, name: str) -> None:
    splits = find_set(name).discover(plant(tmp_path, name)).splits
    files = [{entry.image for entry in entries} for entries in splits.values()]
    assert sum(map(len, files)) == len(set.union(*files))
    assert all(files)


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_reached_and_nothing_else(name: str) -> None:
    benchmark = find_set(name)
    assert set(benchmark.class_of.values()) - {255} == set(range(len(benchmark.classes)))
    assert set(benchmark.class_of) >= set(VALUES[name])
    assert len(set(benchmark.classes)) == len(benchmark.classes)
    assert set(benchmark.things) <= set(benchmark.classes)
    assert benchmark.palette is None or len(benchmark.palette) == len(benchmark.classes)
    assert benchmark.origins.keys() == {"train", "val", "test"}


def test_an_unknown_set_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"did you mean 'cityscapes\d\d'\? Known: cocostuff27, "):
        find_set("cityscape")


def test_what_is_held_out_follows_from_the_names() -> None:
    names = [f"image_{index}" for index in range(1000)]
    train, val = held_out(names)
    assert (len(train), len(val)) == (950, 50)
    assert sorted(train + val) == sorted(names)
    assert held_out(reversed(names)) == (train, val)
    assert len(held_out([str(index) for index in range(20_000)])[1]) == 500
    assert [len(part) for part in held_out(["a", "b", "c"])] == [2, 1]


@pytest.mark.parametrize("name", ["camvid", "cityscapes27", "potsdam3"])
def test_what_a_mac_leaves_beside_files_is_passed_over(tmp_path: Path, name: str) -> None:
    root = plant(tmp_path, name)
    before = find_set(name).discover(root)
    pictures = [path for path in root.rglob("*.*") if path.suffix in (".png", ".mat", ".tif")]
    for path in pictures:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    found = find_set(name).discover(root)
    assert found.entries == before.entries
    assert found.notes == (f"{len(pictures)} files passed over: hidden {len(pictures)}.",)
