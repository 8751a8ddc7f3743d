import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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


def photograph(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name, "AVIF" if name.endswith("avif") else "JPEG")


def test_a_photograph_in_several_formats_is_as_many_images(root: Path) -> None:
    photograph(root, "p.avif", "p.jpe", "p.jfif", "q.jpg")
    assert splits_of(root) == {
        "train": [("p", False), ("p.jfif", False), ("p.jpe", False), ("q", False)]
    }
    (root / "p.jpe").unlink()
    Image.new("L", (8, 8)).save(root / "p.png")
    with pytest.raises(UserError, match="beside it has the same name"):
        discover(root)


def test_a_label_of_such_a_photograph_is_refused(root: Path) -> None:
    photograph(root, "images/p.avif", "images/p.jpg")
    touch(root, "labels/p.png")
    with pytest.raises(UserError, match=r"the label of which image\? p\.avif and p\.jpg have its"):
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


def splits_of(root: Path, **options: str) -> dict[str, list[tuple[str, bool]]]:
    splits = discover(root, **options).splits
    return {name: [(e.id, e.label is not None) for e in part] for name, part in splits.items()}


@pytest.mark.parametrize(
    "images", ["imgs", "images", "Images", "JPEGImages", "leftImg8bit", "img", "img_dir"]
)
@pytest.mark.parametrize(
    "labels",
    ["labels", "masks", "Annotations", "SegmentationClass", "gt", "Ground_Truth", "ann_dir"],
)
@pytest.mark.parametrize("form", ["{split}/{kind}", "{kind}/{split}"])
def test_common_layouts_are_read(root: Path, images: str, labels: str, form: str) -> None:
    for split in ("train", "val"):
        touch(root, f"{form.format(split=split, kind=images)}/a.jpg")
        touch(root, f"{form.format(split=split, kind=labels)}/a.png")
    assert splits_of(root) == {"train": [("a", True)], "val": [("a", True)]}


@pytest.mark.parametrize("tail", ["_mask", "-label", "_gt", "_seg", "_Mask"])
def test_labels_beside_their_images_are_told_by_their_tail(root: Path, tail: str) -> None:
    touch(root, "a.jpg", f"a{tail}.png", "van_gt.jpg")
    assert splits_of(root) == {"train": [("a", True), ("van_gt", False)]}


def test_folders_called_like_splits_are_splits(root: Path) -> None:
    touch(root, "Train/a.jpg", "Train_labels/a.png", "val2017/b.jpg", "notes.txt")
    assert splits_of(root) == {"train": [("a", True)], "val2017": [("b", False)]}


def test_an_archive_in_a_folder_of_its_own_is_looked_into(root: Path) -> None:
    touch(root, "kit/VOC/JPEGImages/a.jpg", "kit/VOC/JPEGImages/b.jpg", "kit/VOC/masks/a.png")
    lists = root / "kit/VOC/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"\xef\xbb\xbfa\r\n")
    (lists / "val.txt").write_text("JPEGImages/b.jpg masks/b.png\n")
    (lists / "trainval.txt").write_text("a\nb\n")
    assert splits_of(root) == {"train": [("a", True)], "val": [("b", False)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("c\n", r"train\.txt, line 1: there is no image 'c'"),
        ("a b c\n", "one image name was"),
        ("\n", r"train\.txt: no image in this list, so split 'train' would be empty"),
    ],
)
def test_lists_that_cannot_be_meant(root: Path, content: str, message: str) -> None:
    touch(root, "images/a.jpg")
    (root / "train.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        discover(root)


def test_an_image_in_two_lists(root: Path) -> None:
    touch(root, "images/a.jpg")
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"val\.txt, line 1: 'a' is in train\.txt too"):
        discover(root)


@pytest.mark.parametrize(
    "names",
    [
        ("one/imgs/train/a.jpg", "one/imgs/val/a.jpg", "two/imgs/train/a.jpg"),
        ("x/train/deep/a.jpg", "y/test/deep/b.jpg", "c.jpg"),
    ],
)
def test_splits_are_never_merged(root: Path, names: tuple[str, ...]) -> None:
    touch(root, *names)
    with pytest.raises(UserError, match="are called as splits are"):
        discover(root)


@pytest.mark.parametrize(
    "names", [("pics/a.jpg", "masks/a.png"), ("images/a.jpg", "images/gt/a.png")]
)
def test_a_folder_of_labels_is_never_one_of_images(root: Path, names: tuple[str, ...]) -> None:
    touch(root, *names)
    with pytest.raises(UserError, match=r"is called as labels are, .*--images"):
        discover(root)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_a_picture_of_one_channel_with_an_images_name_is_no_image(root: Path, mode: str) -> None:
    touch(root, "pics/a.jpg", "truth/other.txt")
    Image.new(mode, (4, 4)).save(root / "truth" / "a.png")
    with pytest.raises(UserError, match=r"truth/a\.png: a picture of one channel .*Is it a label"):
        discover(root)
    assert splits_of(root, images="pics", labels="truth") == {"train": [("a", True)]}


def test_patterns_of_ones_own(root: Path, tmp_path: Path) -> None:
    touch(root, "rgb/train/x/1.jpg", "rgb/val/2.jpg", "rgb/val/2.json")
    touch(tmp_path, "maps of it/train/x/1_ids.png", "maps of it/val/2_colour.png")
    labels = f"{(tmp_path / 'maps of it').as_uri()}/{{split}}/{{id}}_ids.png"
    found = discover(root, images="rgb/{split}/{id}.jpg", labels=labels)
    assert [(e.id, e.split, e.label is not None) for e in found.entries] == [
        ("x/1", "train", True),
        ("2", "val", False),
    ]
    assert found.notes == ("1 files passed over: .json 1.",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "masks"}, "--labels masks needs --images"),
        ({"images": "{what}/{id}"}, r"the words are \{id\} and \{split\}"),
        ({"images": "absent"}, "absent is no folder"),
        ({"images": "pics", "labels": "s4://bucket/x"}, "s4://bucket/x: cannot be opened"),
        ({"images": "pics/{id}.webp"}, "no image fits"),
    ],
)
def test_patterns_that_cannot_be_used(root: Path, options: dict[str, str], message: str) -> None:
    touch(root, "pics/a.jpg")
    with pytest.raises(UserError, match=message):
        discover(root, **options)


WITHOUT_HEIC = """
import json, sys
sys.modules["pillow_heif"] = None  # as where the extra is not installed
from usseg_ray.prepare.layouts import discover
found = discover(sys.argv[1])
print(json.dumps([[entry.id for entry in found.entries], found.notes]))
"""


def test_what_is_passed_over_is_counted_by_kind(root: Path) -> None:
    touch(root, "a.jfif", "b.jpe", "c.mpo", "d.gif", "e.avif")
    touch(root, "f.heic", "g", "._a.jpg", ".DS_Store", "Thumbs.db", "@eaDir/a.jpg", "h.CR2")
    command = [sys.executable, "-c", WITHOUT_HEIC, str(root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == [
        ["a", "b", "c", "d", "e"],
        [
            "7 files passed over: .cr2 1, .heic 1, hidden 4, without suffix 1.",
            "HEIC files are read with an extra: pip install 'usseg-ray[heic]'.",
        ],
    ]


def test_a_folder_that_cannot_be_read_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(root, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    (note,) = discover(root).notes
    assert re.search(r"closed: cannot be read \(Permission denied\)", note)


@pytest.mark.parametrize("suffix", [".gif", ".npy", ".txt", ".json"])
def test_labels_in_formats_that_are_not_read_are_named(root: Path, suffix: str) -> None:
    touch(root, "images/a.jpg", f"labels/a{suffix}", "labels/classes.txt")
    with pytest.raises(UserError, match=rf"a{suffix}: a label must be a PNG file .*1 are {suffix}"):
        discover(root)


def test_how_many_have_no_label_is_said(root: Path) -> None:
    touch(root, "images/train/a.jpg", "images/train/b.jpg", "labels/train/a.png")
    touch(root, "images/val/a.jpg", "labels/val/a.png")
    assert discover(root).notes == ("train: 1 of 2 images have no label.",)


@pytest.mark.parametrize("space", ["\u202f", "\u3000", "\u00a0", "\u200d"])
def test_names_have_any_space(root: Path, space: str) -> None:
    touch(root, f"at 3{space}PM.jpg")
    assert splits_of(root) == {"train": [(f"at 3{space}PM", False)]}


@pytest.mark.parametrize("letter", ["\n", "\x1b", "\x7f"])
def test_names_have_no_control_characters(root: Path, letter: str) -> None:
    touch(root, f"a{letter}b.jpg")
    with pytest.raises(UserError, match="cannot be printed"):
        discover(root)


def test_names_are_compared_in_composed_form(root: Path) -> None:
    touch(root, "images/caf\u00e9.jpg", "labels/cafe\u0301.png")
    assert splits_of(root) == {"train": [("caf\u00e9", True)]}
    touch(root, "images/cafe\u0301.jpg")
    with pytest.raises(UserError, match="has the same name"):
        discover(root)


def test_images_in_no_list_are_counted_and_said(root: Path) -> None:
    touch(root, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("c\n")
    found = discover(root)
    assert [(entry.split, entry.id) for entry in found.entries] == [("train", "a"), ("val", "c")]
    assert found.notes == ("2 files passed over: images in no list 2.",)
