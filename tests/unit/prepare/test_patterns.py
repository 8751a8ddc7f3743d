import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.encoded import encode, picture
from tests.integration.bucket import bucket
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.patterns import (
    LAYOUTS,
    FileMatch,
    Pattern,
    is_label_name,
    is_split,
    label_folder,
    names_within,
    own_pattern,
    roots,
    without_head,
    without_tail,
)


@pytest.mark.parametrize(
    ("path", "layout", "found"),
    [
        ("night/images/a/1.jpg", 0, FileMatch("night", "a/1")),
        ("JPEGImages/Train2017/1.jpg", 1, FileMatch("train2017", "1")),
        ("IMGS/1.jpg", 2, FileMatch("", "1")),
        ("VAL/1.jpg", 3, FileMatch("val", "1")),
    ],
)
def test_images_of_a_layout(path: str, layout: int, found: FileMatch) -> None:
    assert Pattern(LAYOUTS[layout].images).find(Path(path)) == found


@pytest.mark.parametrize("folder", ["trainannot", "train-masks", "train_labels", "Train_GT"])
def test_labels_in_a_folder_beside_the_split(folder: str) -> None:
    assert Pattern(LAYOUTS[3].labels).find(Path(folder, "1.png")) == FileMatch("train", "1")


def test_only_layouts_with_a_folder_of_images_keep_labels_out_of_it() -> None:
    assert [layout.beside_anything for layout in LAYOUTS] == [False, False, False, True]


def test_a_suffix_in_a_pattern_leaves_others_out(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    base, pattern = own_pattern("rgb/{split}/*/{id}.jpg", tmp_path, "--images")
    assert base == tmp_path / "rgb"
    assert pattern.has_split
    assert pattern.find(Path("night/cam/1.jpg")) == FileMatch("night", "1")
    assert pattern.find(Path("night/cam/1.png")) is None


def test_a_folder_whose_name_is_no_pattern_is_taken_by_letter(tmp_path: Path) -> None:
    (tmp_path / "rgb (1)+").mkdir()
    uri = (tmp_path / "rgb (1)+").as_uri()
    base, pattern = own_pattern(uri, tmp_path, "--images")
    assert base == tmp_path / "rgb (1)+"
    assert pattern.find(Path("a.b/1.jpg")) == FileMatch("", "a.b/1")


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


@pytest.mark.parametrize(
    "key", ["a_mask", "a-gt", "a.mask", "a seg", "a_leftImg8bit", "a_gtFine_labelIds", "a_RGB"]
)
def test_tails_are_taken_off(key: str) -> None:
    assert without_tail(key) == "a"


@pytest.mark.parametrize(("name", "left"), [("img_1", "1"), ("RGB-1", "1"), ("imgs", "imgs")])
def test_heads_are_taken_off(name: str, left: str) -> None:
    assert without_head(name) == left


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("a1_mask", {"a1_mask", "a1"}),
        ("mask_07", {"mask_07", "07"}),
        ("0001TP_L", {"0001TP_L", "0001TP", "0001"}),
        ("cowMask", {"cowMask", "cow", "Mask"}),
        ("IMG_1 (2)", {"IMG_1 (2)", "1 (2)"}),
        ("müll", {"müll"}),
        ("_", {"_"}),
    ],
)
def test_names_within_a_name_are_those_beside_words(name: str, within: set[str]) -> None:
    assert names_within(name) == within


def test_a_folder_that_is_alone_is_looked_through(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    (tmp_path / ".DS_Store").write_bytes(b"")
    inner = tmp_path / "VOCdevkit"
    assert list(roots(tmp_path)) == [inner / "VOC2012", inner, tmp_path]


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """Yields the options of an address in a bucket on loopback."""
    with bucket() as settings:
        host = settings["AWS_ENDPOINT_URL"].removeprefix("http://")
        yield f"scheme=http&endpoint_override={host}&region=us-east-1"


def put(options: str, name: str, content: bytes) -> None:
    filesystem, root = resolve(f"s3://key:secret@bucket?{options}")
    with filesystem.open_output_stream(f"{root}/{name}") as stream:
        stream.write(content)


def test_labels_in_a_bucket_are_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    monkeypatch.chdir(tmp_path)
    image = encode(Image.fromarray(picture()), "JPEG")
    truth = encode(Image.fromarray(picture()[..., 0]), "PNG")
    for split in ("train", "val"):
        put(served, f"farm/gt/{split}/a_ids.png", truth)
        (tmp_path / "photos" / "rgb" / split).mkdir(parents=True)
        (tmp_path / "photos" / "rgb" / split / "a.jpg").write_bytes(image)
    labels = f"s3://key:secret@bucket/farm/gt/{{split}}/{{id}}_ids.png?{served}"
    asked = {"images": "rgb/{split}/{id}.jpg", "labels": labels}
    found = discover(tmp_path / "photos", **asked)
    assert [entry.split for entry in found.entries] == ["train", "val"]
    for entry in found.entries:
        assert entry.label is not None
        assert Path(entry.label).read_bytes() == truth
    assert discover(tmp_path / "photos", **asked) == found
    lost = f"s3://key:secret@bucket/lost/{{id}}.png?{served}"
    with pytest.raises(UserError, match="no images") as refused:
        discover(tmp_path / "photos", images="rgb/{split}/{id}.jpg", labels=lost)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("split", ["val", "{split}"])
def test_annotations_in_a_bucket_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str, split: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(encode(Image.fromarray(picture()), "JPEG"))
    square = {"image_id": 0, "category_id": 1, "segmentation": [[1, 1, 3, 1, 3, 3]]}
    told = {
        "images": [{"id": 0, "file_name": "a.jpg", "height": 48, "width": 64}],
        "annotations": [square],
        "categories": [{"id": 1, "name": "cow"}, {"id": 2, "name": "grass"}],
    }
    put(served, "export/stuff_val.json", json.dumps(told).encode())
    labels = f"s3://key:secret@bucket/export/stuff_{split}.json?{served}"
    found = discover(tmp_path / "photos", labels=labels)
    assert [entry.drawing is not None for entry in found.entries] == [True]
    assert found.classes == ("cow", "grass")
    assert discover(tmp_path / "photos", labels=labels) == found
    with pytest.raises(UserError, match="there is no such file"):
        discover(tmp_path / "photos", labels=labels.replace("stuff_", "other_"))


def test_annotations_at_a_uri_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read"):
        discover(tmp_path, labels=f"file://{tmp_path}/lost/a.json")
