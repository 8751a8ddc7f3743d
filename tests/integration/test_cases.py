"""What people have, prepared as they would: read as what it is, or refused in a line.

Each kind of report has its own input here and at least one other. What stands in other tests is
named there: `test_case_files.py` has single files, `tests/fuzz` files of no
kind at all.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.integration.commands import apart, here
from tests.integration.farms import HEIGHT, WIDTH, counts, photograph, put, refused, truth
from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import load_manifest
from usseg_ray.prepare.write import prepare

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("imgs/{}/{}.jpg", "labels/{}/{}.png"),
        ("images/{}/{}.jpg", "labels/{}/{}.png"),
        ("{}/images/{}.jpg", "{}/masks/{}.png"),
        ("JPEGImages/{}/{}.jpg", "SegmentationClass/{}/{}.png"),
        ("Img/{}/{}.jpg", "Ground_Truth/{}/{}.png"),
        ("{}/IMGS/x/{}.jpg", "{}/GT/x/{}.png"),
        ("{}/{}.jpg", "{}annot/{}.png"),
        ("{}/{}.jpg", "{}/{}_mask.png"),
        ("leftImg8bit/{}/{}_leftImg8bit.jpg", "gtFine/{}/{}_gtFine_labelIds.png"),
    ],
)
def test_wide_layouts_keep_labels_and_splits_apart(root: Path, image: str, label: str) -> None:
    for split in ("train", "val"):
        for number in range(3):
            photograph(root / image.format(split, number))
            truth(root / label.format(split, number))
    assert counts(prepare(root, root.parent / "out")) == {"train": (3, 3), "val": (3, 3)}


@pytest.mark.parametrize("label", ["SegmentationClass", "masks"])
def test_folders_of_images_and_labels_without_splits(root: Path, label: str) -> None:
    for number in range(3):
        photograph(root / f"JPEGImages/{number}.jpg")
        truth(root / f"{label}/{number}.png")
    assert counts(prepare(root, root.parent / "out")) == {"train": (3, 3)}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("x/train/0.jpg", "x/val/0.jpg", "y/0.jpg"), r"train and val are called as splits are"),
        (("pics/0.jpg", "masks/0.png"), r"one channel that is called as an image.*--labels"),
        (("pics/0.jpg", "masks/1.png"), r"'masks' is called as labels are.*--images"),
        (("pics/0.jpg", "ids/0.png"), r"one channel that is called as an image.*--labels"),
    ],
)
def test_what_would_mix_splits_or_labels_is_refused(
    root: Path, files: tuple[str, ...], told: str
) -> None:
    for name in files:
        (truth if name.endswith(".png") else photograph)(root / name)
    with pytest.raises(UserError, match=told):
        prepare(root, root.parent / "out")


def test_one_photograph_under_every_suffix(root: Path) -> None:
    data = photograph(root / "a.jpg")
    suffixes = ("jfif", "JFIF", "jpe", "mpo", "heic", "avif", "gif", "jp2", "psd")
    for number, suffix in enumerate(suffixes):
        put(root / f"{number}.{suffix}", data)
    put(root / "without", data)
    prepared = prepare(root, root.parent / "out")
    assert counts(prepared) == {"train": (8, 0)}
    assert prepared.notes[0] == "3 files passed over: .jp2 1, .psd 1, without suffix 1."


def test_one_name_with_several_suffixes(root: Path) -> None:
    for suffix in ("jpe", "jfif", "mpo", "gif", "avif", "heic", "jp2"):
        photograph(root / f"p.{suffix}")
    photograph(root / "q.gif", form="GIF")
    photograph(root / "q.avif", form="AVIF")
    photograph(root / "ok.jpg")
    prepared = prepare(root, root.parent / "out")
    assert counts(prepared) == {"train": (8, 0)}
    assert prepared.notes[0] == "2 files passed over: .gif 1, .jp2 1."
    assert f"({root / 'q.gif'}). Are they labels?" in prepared.notes[1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((0, 255), "hold the values 0 and 255 alone.*--classes"),
        ((3, 255), "hold the values 3 and 255 alone.*--classes"),
        ((255,), "Every pixel of the labels is void.*--classes"),
        ((0, 120, 240), "241 classes of which 238 never occur.*grey levels.*--classes"),
    ],
)
def test_values_that_cannot_be_meant(root: Path, values: tuple[int, ...], told: str) -> None:
    for split in ("train", "val"):
        photograph(root / split / "images/a.jpg")
        truth(root / split / "labels/a.png", values)
    with pytest.raises(UserError, match=f"(?s){told}"):
        prepare(root, root.parent / "out")


def test_values_that_are_said_are_meant(root: Path) -> None:
    photograph(root / "images/a.jpg")
    truth(root / "labels/a.png", (0, 255))
    put(root / "dataset.json", b'{"classes": {"0": "background", "255": "object"}}')
    prepared = prepare(root, root.parent / "out")
    assert (counts(prepared), prepared.manifest.classes) == (
        {"train": (1, 1)},
        ("background", "object"),
    )


@pytest.mark.parametrize("name", ["._{}", ".DS_Store", "Thumbs.db", "@eaDir/{}"])
def test_what_systems_leave_behind_is_passed_over(root: Path, name: str) -> None:
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (truth if folder != split else photograph)(root / folder / "0.png")
            put(root / folder / name.format("0.png"), b"\0\x05\x16\x07Mac OS X")
    prepared = prepare(root, root.parent / "out", dataset="camvid", max_bad_share=0)
    assert {name: rows for name, (rows, _) in counts(prepared).items()} == dict.fromkeys(
        ("train", "val", "test"), 1
    )
    assert prepared.notes == ("6 files passed over: hidden 6.",)


@pytest.mark.parametrize("name", ["._{}", ".DS_Store", "Thumbs.db", "@eaDir/{}"])
def test_the_same_in_the_folders_of_cityscapes(root: Path, name: str) -> None:
    endings = {"leftImg8bit": "leftImg8bit.png", "gtFine": "gtFine_labelIds.png"}
    for folder, ending in endings.items():
        for split, city in (("train", "aachen"), ("val", "lindau")):
            for number in range(3):
                path = root / folder / split / city / f"{city}_{number}_{ending}"
                if folder == "gtFine":
                    truth(path, (7, 8, 11))
                else:
                    photograph(path, number, "PNG")
                put(path.parent / name.format(path.name), b"\0\x05\x16\x07Mac OS X")
    prepared = prepare(root, root.parent / "out", dataset="cityscapes27", max_bad_share=0)
    assert counts(prepared) == {"train": (2, 2), "val": (1, 1), "test": (3, 3)}
    (note,) = prepared.notes
    assert re.fullmatch(r"(4|12) files passed over: hidden \1\.", note)


@pytest.mark.parametrize(
    "line",
    ["\ufeff{}", "{}  1", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "JPEGImages/{}.jpg"],
)
def test_lists_as_editors_and_papers_write_them(root: Path, line: str) -> None:
    home = root / "VOCdevkit/VOC2012"
    lists = {"train": [f"2007_{number:06d}" for number in range(12)], "val": ["2007_000050"]}
    for names in lists.values():
        for name in names:
            photograph(home / f"JPEGImages/{name}.jpg")
            truth(home / f"SegmentationClass/{name}.png")
    for split, names in lists.items():
        mark = line.startswith("\ufeff")
        written = "\r\n".join(line.lstrip("\ufeff").replace("{}", name) for name in names) + "\r\n"
        text = "\ufeff" * mark + written
        put(home / f"ImageSets/Segmentation/{split}.txt", text.encode())
    found = counts(prepare(root, root.parent / "out", dataset="voc2012"))
    assert sum(rows for rows, _ in found.values()) == 13
    assert all(rows == labelled for rows, labelled in found.values())


def test_a_line_that_is_no_image_is_told(root: Path) -> None:
    photograph(root / "a.jpg")
    put(root / "train.txt", b"a and something else entirely\n")
    assert "train.txt, line 1: one image name was expected" in refused(root)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('\ufeff{"classes": ["a", "b", "c"]}', ("a", "b", "c")),
        ('{"classes": {"0": "a", "1": "b", "2": "c"}}', ("a", "b", "c")),
        ('{"classes": ["a", "b", "c"], "palette": ["#f00000", "#00ff00", "#0000ff"]}', None),
        ('{"classes": ["void", "b", "c"], "ignore_index": 0}', None),
        ('["a", "b"]', 'must be an object, such as {"classes": ["cow", "grass"]}'),
        ('{"classes": ["a", "b"], "ignore_index": -1}', "'ignore_index': must be at least 0"),
        ('{"Classes": ["a", "b", "c"]}', "unknown key 'Classes'; did you mean 'classes'?"),
        ('{"classes": ["a"], "ignore_label": 0}', "did you mean 'ignore_index'?"),
        ('{"classes": "abc"}', "'classes': must be a list"),
        ('{"name": "../../../evil"}', "cannot be part of a path"),
        ('{"name": "a:b"}', "cannot be part of a path"),
        ("{'classes': []}", "not a JSON file"),
    ],
)
def test_descriptions_as_people_write_them(root: Path, text: str, told: object) -> None:
    photograph(root / "images/a.jpg")
    truth(root / "labels/a.png")
    put(root / "dataset.json", text.encode())
    if isinstance(told, str):
        said = refused(root)
        assert told in said
        assert len(said.splitlines()) <= 2
        assert "pydantic" not in said
        return
    prepared = prepare(root, root.parent / "out")
    assert counts(prepared) == {"train": (1, 1)}
    assert told is None or prepared.manifest.classes == told


def test_a_name_leads_nowhere_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_DATA", str(root.parent / "cache"))
    photograph(root / "a.jpg")
    put(root / "dataset.json", b'{"name": "../../../evil"}')
    with pytest.raises(UserError, match="cannot be part of a path"):
        prepare(root)
    assert [path.name for path in root.parent.iterdir()] == ["farm"]


@pytest.mark.parametrize(
    "name", ["Screenshot 3.41.07\u202fPM", "全\u3000角", "a\u00a0b", "farm 👩\u200d🌾"]
)
def test_names_with_other_spaces_are_names(root: Path, name: str) -> None:
    photograph(root / f"images/{name}.jpg")
    truth(root / f"labels/{name}.png")
    assert counts(prepare(root, root.parent / "out")) == {"train": (1, 1)}


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {"image_id": 1, "category_id": 2, "segmentation": [[20, 1, 39, 1, 39, 9]]},
    ],
    "categories": [{"id": 1, "name": "cow"}, {"id": 2, "name": "grass"}],
}


def test_coco_annotations_are_refused_as_a_description_and_read_as_labels(root: Path) -> None:
    photograph(root / "train/images/a.jpg")
    put(root / "dataset.json", json.dumps(COCO).encode())
    assert "holds COCO annotations" in refused(root)
    (root / "dataset.json").rename(root / "annotations.json")
    prepared = prepare(root, root.parent / "out")
    assert (counts(prepared), prepared.manifest.classes) == ({"train": (1, 1)}, ("cow", "grass"))


@pytest.mark.parametrize("suffix", [".gif", ".npy", ".txt", ".json"])
def test_labels_in_other_formats_are_named(root: Path, suffix: str) -> None:
    photograph(root / "images/a.jpg")
    put(root / f"labels/a{suffix}", b"GIF89a")
    assert f"a label must be a PNG file of class indices, and 1 are {suffix} files" in refused(root)


@pytest.fixture
def long_folder(tmp_path: Path) -> str:
    folder = tmp_path / "slurm_jobdir" / ("a_long_name_of_a_user_or_project_" * 3)
    folder.mkdir(parents=True)
    return str(folder)


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("TMPDIR", ("prepare", "--source", "farm", "--out", "out")),
        ("RAY_TMPDIR", ("prepare", "--source", "farm", "--out", "out")),
        ("TMPDIR", ("tune", "--method", "kmeans", "--num-samples", "1", "--backbone", "textons")),
    ],
)
def test_a_long_folder_for_temporary_files_is_one_line(
    root: Path,
    long_folder: str,
    variable: str,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photograph(root / "a.jpg")
    monkeypatch.setenv(variable, long_folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = apart(*arguments, folder=root.parent)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(said) == 1
    assert said[0].startswith(f"Error: {variable}={long_folder} is too long for Ray's sockets")
    assert "export RAY_TMPDIR=/tmp" in said[0]
    assert "Traceback" not in done.stderr


def test_a_whole_run_in_a_folder_of_any_name(tmp_path: Path) -> None:
    home = tmp_path / "photos of 2024? #1, 50% a%20b \u202fé"
    for split in ("train", "val"):
        for number in range(3):
            photograph(home / f"my photos?/{split}/images/{number} #1 50%.jpg", number)
            truth(home / f"my photos?/{split}/labels/{number} #1 50%.png")
    for line in (
        "prepare --source 'my photos?' --out 'sets #1?/photos'",
        "tune --method kmeans --data 'sets #1?/photos' --backbone textons --set num_clusters=3 "
        "--num-samples 1 --finalists 0 --out 'runs/first #1?'",
        "report --out 'report #1?.html'",
        "predict --model 'runs/first #1?' --images 'my photos?/val/images' --out 'masks #1?'",
    ):
        command, *arguments = shlex.split(line)
        done = here(command, *arguments, folder=home)
        assert done.returncode == 0, (line, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == [home.name]
    assert (home / "mlflow.db").is_file()
    assert "first #1?" in (home / "report #1?.html").read_text()
    masks = sorted(path.name for path in (home / "masks #1?").rglob("*.png"))
    assert masks == [f"{number} #1 50%.png" for number in range(3)]


def test_a_folder_in_which_only_some_images_have_labels_is_said(root: Path) -> None:
    for name in ("a", "b", "c"):
        photograph(root / f"train/images/{name}.jpg")
    truth(root / "train/labels/a.png")
    assert "train: 2 of 3 images have no label." in prepare(root, root.parent / "out").notes


def test_the_readme_prepares_a_plain_folder_as_written(tmp_path: Path) -> None:
    line = next(
        line
        for line in (PROJECT / "README.md").read_text("utf-8").splitlines()
        if line.startswith("python -m usseg_ray.prepare --source photos ")
    )
    for number in range(3):
        photograph(tmp_path / f"photos/{number}.jpg", number)
    done = here("prepare", *shlex.split(line)[3:], folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert load_manifest(tmp_path / "prepared/photos").splits["train"].rows == 3
