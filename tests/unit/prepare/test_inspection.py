import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usseg_ray.data.decode import decode_label
from usseg_ray.prepare.entries import Entry
from usseg_ray.prepare.inspection import Inspector
from usseg_ray.prepare.meaning import Meaning

IGNORE = 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:200])
    numbers = np.full((6, 8), IGNORE, np.uint8)
    numbers[0, :3] = [0, 2, 1]
    Image.fromarray(numbers).save(tmp_path / "good.png")
    Image.fromarray(numbers[:, :4]).save(tmp_path / "narrow.png")
    Image.fromarray(numbers + 20).save(tmp_path / "high.png")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "colour.png")
    return tmp_path


def entry(folder: Path, image: str, label: str | None = None) -> Entry:
    path = None if label is None else str(folder / label)
    return Entry(Path(image).stem, "train", str(folder / image), path)


def test_good_rows_keep_the_bytes_of_their_files(folder: Path) -> None:
    inspector = Inspector(Meaning(3, IGNORE))
    labelled, bare = inspector.rows(
        [entry(folder, "good.jpg", "good.png"), entry(folder, "good.jpg")]
    )
    assert labelled.image == (folder / "good.jpg").read_bytes()
    assert labelled.label == (folder / "good.png").read_bytes()
    assert (labelled.id, labelled.height, labelled.width) == ("good", 6, 8)
    assert bare.label is None
    assert (inspector.problems, inspector.values) == ([], {0, 1, 2, IGNORE})


@pytest.mark.parametrize("image", ["broken.jpg", "absent.jpg"])
def test_bad_images_are_left_out(folder: Path, image: str) -> None:
    inspector = Inspector(Meaning(3, IGNORE))
    (kept,) = inspector.rows([entry(folder, image, "good.png"), entry(folder, "good.jpg")])
    assert kept.id == "good"
    (problem,) = inspector.problems
    assert (problem.kind, problem.path) == ("image", str(folder / image))
    assert problem.reason


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("narrow.png", "the label is 4x6, its image 8x6"),
        ("high.png", "value 29 is neither a class (0 to 2) nor the ignore index 9"),
        ("colour.png", "one channel of class indices, this one is RGB"),
        ("good.jpg", "must be a PNG"),
        ("absent.png", "No such file"),
    ],
)
def test_bad_labels_are_left_out_and_their_images_kept(
    folder: Path, label: str, reason: str
) -> None:
    inspector = Inspector(Meaning(3, IGNORE))
    (kept,) = inspector.rows([entry(folder, "good.jpg", label)])
    assert kept.label is None
    (problem,) = inspector.problems
    assert (problem.kind, problem.path) == ("label", str(folder / label))
    assert reason in problem.reason
    assert inspector.values == set()


def turned(path: Path, number: int, height: int = 6, width: int = 8) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif", "turned.webp"])
def test_a_label_of_the_unturned_picture_is_told_with_its_reason(folder: Path, name: str) -> None:
    turned(folder / name, 6)
    inspector = Inspector(Meaning(3, IGNORE))
    list(inspector.rows([entry(folder, name, "good.png")]))
    (problem,) = inspector.problems
    assert "8x6 as its image lies in the file, but EXIF turns the image upright to 6x8" in (
        problem.reason
    )


@pytest.mark.parametrize(("number", "count"), [(1, 0), (2, 1), (3, 1), (4, 1)])
def test_turns_that_no_size_shows_are_counted(folder: Path, number: int, count: int) -> None:
    turned(folder / "turned.jpg", number)
    inspector = Inspector(Meaning(3, IGNORE))
    list(inspector.rows([entry(folder, "turned.jpg", "good.png"), entry(folder, "turned.jpg")]))
    assert (inspector.problems, inspector.turned) == ([], count)


@pytest.mark.parametrize(("height", "width", "kept"), [(1, 64, 1), (1, 65, 0), (130, 2, 0)])
def test_strips_are_left_out(folder: Path, height: int, width: int, kept: int) -> None:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(folder / "strip.png")
    inspector = Inspector(Meaning(3, IGNORE))
    assert len(list(inspector.rows([entry(folder, "strip.png")]))) == kept
    assert all("is a strip" in problem.reason for problem in inspector.problems)


def test_labels_in_the_colours_of_the_palette_become_numbers(folder: Path) -> None:
    colours = np.zeros((6, 8, 3), np.uint8)
    colours[0, 0], colours[0, 1] = (255, 0, 0), (0, 1, 2)
    Image.fromarray(colours).save(folder / "painted.png")
    known = {(255, 0, 0): 0, (0, 1, 2): 1}
    inspector = Inspector(Meaning(2, IGNORE, colours=known | {(0, 0, 0): IGNORE}))
    (row,) = inspector.rows([entry(folder, "good.jpg", "painted.png")])
    assert row.label is not None
    assert decode_label(row.label)[0, :3].tolist() == [0, 1, IGNORE]
    inspector = Inspector(Meaning(2, IGNORE, colours=known))
    list(inspector.rows([entry(folder, "good.jpg", "painted.png")]))
    assert "colour #000000 is neither in 'palette'" in inspector.problems[0].reason


def test_what_is_no_file_is_left_out(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    inspector = Inspector(Meaning(3, IGNORE))
    assert list(inspector.rows([entry(folder, "pipe.jpg"), entry(folder, "folder.jpg")])) == []
    assert {problem.reason for problem in inspector.problems} == {
        "neither a file nor a link to one"
    }


def test_without_a_class_list_the_ignore_index_bounds_the_classes(folder: Path) -> None:
    inspector = Inspector(Meaning(None, IGNORE))
    kept = list(
        inspector.rows([entry(folder, "good.jpg", name) for name in ("good.png", "high.png")])
    )
    assert [row.label is None for row in kept] == [False, True]
    assert inspector.values == {0, 1, 2, IGNORE}
