from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_without_a_class_list_the_ignore_index_bounds_the_classes(folder: Path) -> None:
    inspector = Inspector(Meaning(None, IGNORE))
    kept = list(
        inspector.rows([entry(folder, "good.jpg", name) for name in ("good.png", "high.png")])
    )
    assert [row.label is None for row in kept] == [False, True]
    assert inspector.values == {0, 1, 2, IGNORE}
