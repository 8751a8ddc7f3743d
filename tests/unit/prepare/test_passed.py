from pathlib import Path

import pytest

from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.passed import PassedFiles


def test_nothing_passed_over_is_not_said() -> None:
    assert PassedFiles().lines() == []


def test_kinds_are_counted_in_any_capitals_and_sorted() -> None:
    passed = PassedFiles()
    for name in ("a.TXT", "b.txt", "README", "c.mov", "dataset.json"):
        passed.other(Path(name))
    assert passed.lines() == ["4 files passed over: .mov 1, .txt 2, without suffix 1."]


def test_files_that_others_read_are_not_counted() -> None:
    read = Path("annotations/train.json")
    passed = PassedFiles({read})
    passed.other(read)
    passed.other(Path("other/train.json"))
    assert passed.lines() == ["1 files passed over: .json 1."]


@pytest.mark.parametrize("name", ["a.heic", "b.HEIF"])
def test_heic_files_that_are_not_read_name_their_extra(name: str) -> None:
    passed = PassedFiles()
    passed.other(Path(name))
    assert "pip install 'usseg-ray[heic]'" in passed.lines()[1]


def test_a_walk_counts_what_systems_leave_behind(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "sub/b.jpg", "@eaDir/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    passed = PassedFiles()
    found = {path.relative_to(tmp_path).as_posix() for path in passed.walk(tmp_path)}
    assert found == {"a.jpg", "sub/b.jpg"}
    assert passed.lines()[0].startswith("4 files passed over: hidden 4")


def test_a_walk_counts_folders_of_runs(tmp_path: Path) -> None:
    for name in ("a.jpg", "mlartifacts/b.png", "out/predict.json", "out/names.yaml", "out/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    passed = PassedFiles()
    assert passed.walk(tmp_path) == [tmp_path / "a.jpg"]
    assert passed.lines() == ["2 files passed over: folders of runs 2."]


def test_images_in_no_list_and_unreadable_folders_are_said() -> None:
    passed = PassedFiles()
    passed.unlisted(3)
    passed.unreadable(PermissionError(13, "Permission denied", "farm/locked"))
    assert passed.lines() == [
        "3 files passed over: images in no list 3.",
        "farm/locked: cannot be read (Permission denied).",
    ]


def test_files_called_as_images_are_asked_about() -> None:
    passed = PassedFiles()
    passed.called_as_images([])
    assert passed.lines() == []
    passed.other(Path("x/b.npy"))
    passed.other(Path("x/a.npy"))
    passed.called_as_images([Path("x/b.npy"), Path("x/a.npy")])
    assert passed.lines() == [
        "2 files passed over: .npy 2.",
        "2 of them are called as images are (x/a.npy). Are they labels? They would be PNG files in "
        "a folder of labels, or where prepare --labels says.",
    ]


def test_images_outside_a_layout_are_said_where_no_label_shows_that_it_is_meant(
    tmp_path: Path,
) -> None:
    for name in ("images/a.jpg", "rome/b.jpg", "rome/c.jpg", "labels/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert len(discover(tmp_path).notes) == 1
    (tmp_path / "labels/a.png").unlink()
    found = discover(tmp_path)
    assert [entry.id for entry in found.entries] == ["a"]
    assert found.notes[1] == (
        f"2 images lie outside the layout {{images}}/{{id}} ({tmp_path.resolve()}/rome/b.jpg). "
        "To use all images: prepare --images '{id}'."
    )
    assert len(discover(tmp_path, images="{id}").entries) == 3
