import json
from pathlib import Path
from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.description import DEFAULT_IGNORE_INDEX
from usseg_ray.prepare.entries import Entry
from usseg_ray.prepare.layouts import discover


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def describe(root: Path, **content: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "farm"
    folder.mkdir()
    return folder


def test_splits_with_labels_and_description(root: Path) -> None:
    touch(root, "train/images/b.jpg", "train/images/a.JPG", "train/labels/a.png")
    touch(root, "val/images/c.webp", "notes/readme.txt")
    palette = [[255, 0, 0], [0, 255, 0]]
    describe(root, name="cows", classes=["cow", "grass"], ignore_index=9, palette=palette, year=1)
    found = discover(root)
    assert (found.name, found.classes, found.ignore_index) == ("cows", ("cow", "grass"), 9)
    assert found.palette == ((255, 0, 0), (0, 255, 0))
    base = str(root.resolve())
    assert found.entries == (
        Entry("a", "train", f"{base}/train/images/a.JPG", f"{base}/train/labels/a.png"),
        Entry("b", "train", f"{base}/train/images/b.jpg", None),
        Entry("c", "val", f"{base}/val/images/c.webp", None),
    )
    assert [len(part) for part in found.splits.values()] == [2, 1]


def test_without_description_names_and_numbers_have_defaults(root: Path) -> None:
    touch(root, "train/images/a.png")
    found = discover(str(root))
    assert (found.name, found.classes, found.palette) == ("farm", (), None)
    assert found.ignore_index == DEFAULT_IGNORE_INDEX


def test_nested_images_take_their_path_as_id(root: Path) -> None:
    touch(root, "train/images/berlin/1.jpg", "train/images/bonn/1.jpg", "train/labels/bonn/1.png")
    labelled = {entry.id: entry.label is not None for entry in discover(root).entries}
    assert labelled == {"berlin/1": False, "bonn/1": True}


def test_plain_folder_is_one_split_without_labels(root: Path) -> None:
    touch(root, "z.jpg", "deep/er/a.b.tiff", ".hidden.jpg", ".cache/x.jpg", "list.csv")
    assert [(e.id, e.split, e.label) for e in discover(root).entries] == [
        ("deep/er/a.b", "train", None),
        ("z", "train", None),
    ]


def test_one_split_given_alone_keeps_its_labels_apart(root: Path) -> None:
    touch(root, "images/a.jpg", "labels/a.png")
    (entry,) = discover(root).entries
    assert (entry.id, entry.split) == ("a", "train")
    assert entry.label is not None


def test_links_are_followed_but_not_in_circles(root: Path, tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg")
    touch(root, "here/2.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "here" / "up").symlink_to(root)
    assert [entry.id for entry in discover(root).entries] == ["here/2", "linked/1"]


def test_missing_folder_and_file_instead_of_folder(root: Path) -> None:
    with pytest.raises(UserError, match=r"absent does not exist"):
        discover(root / "absent")
    touch(root, "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg is not a folder"):
        discover(root / "a.jpg")


def test_no_images(root: Path) -> None:
    touch(root, "readme.txt", "clip.mp4", ".DS_Store")
    told = r"no images here \(\.avif, \.bmp, .*3 files passed over: \.mp4 1, \.txt 1, hidden 1"
    with pytest.raises(UserError, match=told):
        discover(root)


def test_a_split_without_images(root: Path) -> None:
    touch(root, "train/images/a.jpg", "val/images/.keep")
    with pytest.raises(UserError, match=r"val/images: no images .* split 'val' would be empty"):
        discover(root)


def test_a_split_of_labels_only(root: Path) -> None:
    touch(root, "train/images/a.jpg", "val/labels/a.png")
    with pytest.raises(UserError, match=r"val/labels: split 'val' has labels but no images"):
        discover(root)


def test_labels_without_images(root: Path) -> None:
    touch(root, "train/images/a.jpg", *(f"train/labels/{name}.png" for name in "abc"))
    with pytest.raises(UserError, match=r"b\.png: no image b\.\* .*2 labels without an image"):
        discover(root)


def test_labels_that_are_not_png(root: Path) -> None:
    touch(root, "train/images/a.jpg", "train/labels/a.jpg")
    with pytest.raises(UserError, match=r"labels/a\.jpg: a label must be a PNG"):
        discover(root)


def test_two_images_of_one_name(root: Path) -> None:
    touch(root, "train/images/a.jpg", "train/images/a.png")
    with pytest.raises(UserError, match=r"a\.(jpg|png) beside it has the same name"):
        discover(root)


def test_names_that_are_not_text(root: Path) -> None:
    touch(root, "fine é.jpg", "bad \udcff.jpg")
    with pytest.raises(UserError, match=r"bad .udcff\.jpg': the name has characters"):
        discover(root)


def test_description_that_is_not_json(root: Path) -> None:
    touch(root, "a.jpg")
    (root / "dataset.json").write_text('{"classes": [')
    with pytest.raises(UserError, match=r"dataset\.json: not a JSON file"):
        discover(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": "cow"}, "key 'classes'"),
        ({"classes": ["cow", 3]}, r"key 'classes\.1'"),
        ({"classes": ["cow", "cow"]}, "class 'cow' is named twice"),
        ({"ignore_index": -1}, "key 'ignore_index'"),
        ({"classes": ["cow", "dog"], "ignore_index": 1}, "'ignore_index' 1 is also class 'dog'"),
        ({"classes": [str(i) for i in range(256)]}, "'ignore_index' 255 is also class '255'"),
        ({"classes": ["cow"], "palette": [[0, 0]]}, r"key 'palette\.0\.2'"),
        ({"classes": ["cow"], "palette": [[0, 0, 256]]}, "key 'palette': a colour is three"),
        ({"classes": ["cow"], "palette": []}, "'palette' has 0 colours for 1 classes"),
        ({"name": ""}, "key 'name'"),
        ([], "must be an object"),
    ],
)
def test_description_that_cannot_be_used(root: Path, content: Any, message: str) -> None:
    touch(root, "a.jpg")
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"dataset\.json: .*{message}"):
        discover(root)
