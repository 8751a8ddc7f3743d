"""COCO files beside images: found, matched by name, and what is wrong is one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.data.decode import decode_label
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.write import fingerprint

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]
CATEGORIES = [{"id": 7, "name": "cow"}, {"id": 3, "name": "grass"}]


def content(*names: str, **changes: Any) -> dict[str, Any]:
    images = [
        {"id": number, "file_name": name, "height": 4, "width": 5}
        for number, name in enumerate(names)
    ]
    annotations = [
        {"image_id": 0, "category_id": 7, "segmentation": SQUARE, "iscrowd": 0},
        {
            "image_id": 0,
            "category_id": 3,
            "segmentation": {"size": [4, 5], "counts": [16, 4]},
            "iscrowd": 1,
        },
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES} | changes


def write(root: Path, where: str, told: Any) -> None:
    path = root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(root / name)


def test_labels_are_drawn_and_images_without_annotations_have_none(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png", "train/b.png", "train/c.png")
    write(tmp_path, "annotations/instances_train.json", content("a.png", "b.png"))
    found = discover(tmp_path)
    assert (found.classes, found.ignore_index) == (("grass", "cow"), 255)
    assert [(entry.id, entry.label is None) for entry in found.entries] == [
        ("a", False),
        ("b", True),
        ("c", True),
    ]
    assert found.notes == ("train: 2 of 3 images have no label.",)
    first, *_ = Inspector(found.meaning).rows(found.entries)
    assert first.label is not None
    assert decode_label(first.label).tolist() == [
        [255, 255, 255, 255, 0],
        [255, 1, 1, 255, 0],
        [255, 1, 1, 255, 0],
        [255, 255, 255, 255, 0],
    ]


@pytest.mark.parametrize(
    ("images", "files"),
    [
        (("train/a.png", "valid/b.png"), ("{}/_annotations.coco.json", ("train", "valid"))),
        (("train2017/a.png", "val2017/b.png"), ("annotations/instances_{}.json", None)),
        (("images/train/a.png", "images/val/b.png"), ("annotations/{}.json", ("train", "val"))),
        (("images/a.png", "images/b.png"), ("annotations/instances_{}.json", ("train", "val"))),
        (("a.png", "b.png"), ("instances_{}.json", ("train", "val"))),
    ],
)
def test_one_file_a_split_is_found(
    tmp_path: Path, images: tuple[str, str], files: tuple[str, tuple[str, str] | None]
) -> None:
    pictures(tmp_path, *images)
    pattern, splits = files[0], files[1] or ("train2017", "val2017")
    for split, image in zip(splits, images, strict=True):
        write(tmp_path, pattern.format(split), content(Path(image).name))
    found = discover(tmp_path)
    assert [(entry.split, entry.id, entry.label is not None) for entry in found.entries] == [
        (splits[0], "a", True),
        (splits[1], "b", True),
    ]
    assert found.notes == ()


def test_a_file_of_any_name_is_said(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path, "export-7.json", content("a.png"))
    assert discover(tmp_path).entries[0].label is None
    assert discover(tmp_path, labels="export-7.json").entries[0].label is not None
    assert discover(tmp_path, images="{id}.png", labels="export-7.json").classes
    with pytest.raises(UserError, match="there is no such file"):
        discover(tmp_path, labels="other.json")


def test_which_of_two_files_is_said(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    for kind in ("instances", "stuff"):
        write(tmp_path, f"annotations/{kind}_val.json", content("a.png"))
    with pytest.raises(UserError, match=r"instances_val.json describes split 'val' too"):
        discover(tmp_path)
    found = discover(tmp_path, labels="annotations/stuff_{split}.json")
    assert [(entry.split, entry.label) for entry in found.entries] == [
        ("val", str(tmp_path / "annotations/stuff_val.json"))
    ]


def test_label_maps_win_over_a_file_beside_them(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.jpg", "labels/a.png")
    write(tmp_path, "annotations/instances_train.json", content("a.jpg"))
    found = discover(tmp_path)
    assert found.entries[0].label == str(tmp_path / "labels/a.png")
    assert "instances_train.json: not read, as there are label maps." in found.notes[-1]


def test_what_cannot_be_used_of_an_image_is_quarantined(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    told = content("a.png", "gone.png")
    told["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5]]
    write(tmp_path, "annotations.json", told | {"annotations": told["annotations"][:1]})
    found = discover(tmp_path)
    inspector = Inspector(found.meaning)
    rows = list(inspector.rows(found.entries))
    assert [(row.id, row.label) for row in rows] == [("a", None)]
    assert [(problem.id, problem.kind) for problem in inspector.problems] == [
        ("a", "label"),
        ("gone", "image"),
    ]
    assert "it has 5 numbers" in inspector.problems[0].reason
    assert "No such file" in inspector.problems[1].reason


ANNOTATION = {"image_id": 0, "category_id": 7, "segmentation": SQUARE}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ([], "no COCO annotations: the file: must be an object. If it is something else, rename"),
        ({"images": []}, "no COCO annotations: annotations: is missing"),
        (content("a.png", categories=[]), "no COCO annotations: categories: must not be empty"),
        (content("a.png") | {"images": [3]}, "images.0: must be an object"),
        (content("a.png", annotations=[{"image_id": "x"}]), "image_id: must be a whole number"),
        (content("a.png", annotations=[ANNOTATION | {"image_id": 9}]), "there is no image 9"),
        (content("a.png", annotations=[ANNOTATION | {"category_id": 9}]), "no category 9"),
        (content("a.png", categories=[*CATEGORIES, CATEGORIES[0]]), "two categories have the id 7"),
        (content("a.png", "a.png"), "'a.png' is named twice"),
        (content("."), r"images.0.file_name: '.' is no name of a file"),
        (content("../"), "is no name of a file"),
        (content("a\0.png"), "is no name of a file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, told: Any, reason: str) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path, "annotations.json", told)
    with pytest.raises(UserError, match=reason) as error:
        discover(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "..\\a.png"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    pictures(tmp_path, "a.png")
    pictures(tmp_path / "set", "b.png")
    write(tmp_path / "set", "annotations.json", content(name))
    found = discover(tmp_path / "set")
    assert [Path(entry.image) for entry in found.entries] == [
        tmp_path / "set" / "a.png",
        tmp_path / "set" / "b.png",
    ]


def test_a_name_too_long_for_a_disk_is_quarantined(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path, "annotations.json", content("a.png", f"{'b' * 300}.png"))
    found = discover(tmp_path)
    assert len(fingerprint(found)) == 64
    inspector = Inspector(found.meaning)
    assert len(list(inspector.rows(found.entries))) == 1
    assert "File name too long" in inspector.problems[0].reason


@pytest.mark.parametrize(
    "pattern", ["told/{split}.json", "./told/{split}.json", "{}/{{split}}.json"]
)
def test_files_of_splits_lie_anywhere_and_junk_is_none(tmp_path: Path, pattern: str) -> None:
    source, told = tmp_path / "source", tmp_path / ("source/told" if "told" in pattern else "told")
    pictures(source, "a.png")
    write(told, "train.json", content("a.png"))
    (told / "._train.json").write_bytes(b"\0\5\x16\7")
    labels = pattern if "told" in pattern else pattern.format(told)
    (entry,) = discover(source, labels=labels).entries
    assert (entry.split, entry.drawing is not None) == ("train", True)


def test_names_of_classes_come_from_one_place(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    write(tmp_path, "annotations.json", content("a.png"))
    with pytest.raises(UserError, match="its categories name the classes"):
        discover(tmp_path, classes="x,y")


def test_splits_have_the_same_categories(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png", "val/b.png")
    write(tmp_path, "annotations/instances_train.json", content("a.png"))
    write(tmp_path, "annotations/instances_val.json", content("b.png", categories=CATEGORIES[:1]))
    with pytest.raises(UserError, match="its categories are not those"):
        discover(tmp_path)


def test_a_second_category_of_a_name_has_its_id(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    twice = [{"id": 7, "name": "cow"}, {"id": 3, "name": "cow"}]
    write(tmp_path, "annotations.json", content("a.png", categories=twice))
    assert discover(tmp_path).classes == ("cow", "cow_7")


def test_around_a_single_category_lies_the_background(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.png")
    alone = content("a.png", categories=[{"id": 7, "name": "cow"}])
    alone["annotations"] = alone["annotations"][:1]
    write(tmp_path, "annotations/instances_train.json", alone)
    found = discover(tmp_path)
    assert (found.classes, found.ignore_index) == (("cow", "background"), 255)
    (row,) = Inspector(found.meaning).rows(found.entries)
    assert row.label is not None
    expected = np.ones((4, 5), int)
    expected[1:3, 1:3] = 0
    assert np.array_equal(decode_label(row.label), expected)


@pytest.mark.parametrize("told", [[{"file": "a.png"}], {"train": ["a.png"]}, "text"])
def test_a_file_of_another_tool_is_refused_with_ways_on(tmp_path: Path, told: Any) -> None:
    pictures(tmp_path, "train/a.png")
    write(tmp_path, "annotations/train.json", told)
    with pytest.raises(UserError, match=r"rename it or move it away; or say what counts: --labels"):
        discover(tmp_path)
    (tmp_path / "annotations/train.json").rename(tmp_path / "annotations/notes.json")
    assert discover(tmp_path).notes == ("1 files passed over: .json 1.",)
