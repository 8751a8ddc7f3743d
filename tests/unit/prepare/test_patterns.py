from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.patterns import (
    LAYOUTS,
    Found,
    Pattern,
    is_label_name,
    is_split,
    label_folder,
    own_pattern,
    roots,
    without_tail,
)


@pytest.mark.parametrize(
    ("path", "layout", "found"),
    [
        ("night/images/a/1.jpg", 0, Found("night", "a/1")),
        ("JPEGImages/Train2017/1.jpg", 1, Found("train2017", "1")),
        ("IMGS/1.jpg", 2, Found("", "1")),
        ("VAL/1.jpg", 3, Found("val", "1")),
    ],
)
def test_images_of_a_layout(path: str, layout: int, found: Found) -> None:
    assert Pattern(LAYOUTS[layout].images).find(Path(path)) == found


@pytest.mark.parametrize("folder", ["trainannot", "train-masks", "train_labels", "Train_GT"])
def test_labels_in_a_folder_beside_the_split(folder: str) -> None:
    assert Pattern(LAYOUTS[3].labels).find(Path(folder, "1.png")) == Found("train", "1")


def test_only_layouts_with_a_folder_of_images_keep_labels_out_of_it() -> None:
    assert [layout.beside_anything for layout in LAYOUTS] == [False, False, False, True]


def test_a_suffix_in_a_pattern_leaves_others_out(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    base, pattern = own_pattern("rgb/{split}/*/{id}.jpg", tmp_path, "--images")
    assert base == tmp_path / "rgb"
    assert pattern.has_split
    assert pattern.find(Path("night/cam/1.jpg")) == Found("night", "1")
    assert pattern.find(Path("night/cam/1.png")) is None


def test_a_folder_whose_name_is_no_pattern_is_taken_by_letter(tmp_path: Path) -> None:
    (tmp_path / "rgb (1)+").mkdir()
    uri = (tmp_path / "rgb (1)+").as_uri()
    base, pattern = own_pattern(uri, tmp_path, "--images")
    assert base == tmp_path / "rgb (1)+"
    assert pattern.find(Path("a.b/1.jpg")) == Found("", "a.b/1")


@pytest.mark.parametrize("text", ["{name}.jpg", "{id}/{id}.jpg", "{split}/{split}/{id}", "gone"])
def test_patterns_that_mean_nothing_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--labels"):
        own_pattern(text, tmp_path, "--labels")


def test_names_of_splits_and_labels() -> None:
    assert [is_split(name) for name in ("Val", "test2017", "night", "train20171")] == [
        True,
        True,
        False,
        False,
    ]
    assert label_folder("a/Masks/1") == "Masks"
    assert label_folder("a/masks") is None
    assert [is_label_name(key) for key in ("1_mask", "1-GT", "mask", "1_mask_2")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("key", ["a_mask", "a-gt", "a_leftImg8bit", "a_gtFine_labelIds", "a_RGB"])
def test_tails_are_taken_off(key: str) -> None:
    assert without_tail(key) == "a"


def test_a_folder_that_is_alone_is_looked_through(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    (tmp_path / ".DS_Store").write_bytes(b"")
    inner = tmp_path / "VOCdevkit"
    assert list(roots(tmp_path)) == [inner / "VOC2012", inner, tmp_path]
