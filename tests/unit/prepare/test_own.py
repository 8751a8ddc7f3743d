"""What is refused before any work; that a set is made and found again: integration/test_fit.py."""

from pathlib import Path

import pytest

from tests import tiny
from tests.unit.prepare.test_packed import encoded
from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import save_manifest
from usseg_ray.prepare import own
from usseg_ray.prepare.entries import ImageSet
from usseg_ray.prepare.own import is_raw, prepare_own


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no images here"):
        prepare_own(str(tmp_path), tmp_path / "home")
    with pytest.raises(UserError, match=r"no such folder or file\. Give the folder"):
        prepare_own(str(tmp_path / "lost"), tmp_path / "home")


def test_one_image_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(0))
    with pytest.raises(UserError, match=r"one image that can be used.*Give ten or more"):
        prepare_own(str(tmp_path), tmp_path / "home")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(0))
    with pytest.raises(UserError, match=r"^/.*a\.jpg: a file\. Give the folder of your images"):
        prepare_own(str(tmp_path / "a.jpg"), tmp_path / "home")


def test_copies_of_one_image_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "ß 写真.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(encoded(0))
    with pytest.raises(UserError, match="all 3 images are the same file"):
        prepare_own(str(tmp_path), tmp_path / "home")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    photos, other = tmp_path / "photos", tmp_path / "other"
    photos.mkdir()
    other.mkdir()
    (other / "b.jpg").write_bytes(encoded(1))
    (photos / "a.jpg").write_bytes(encoded(0))
    (photos / "b.jpg").symlink_to(other / "b.jpg")
    (photos / "c").symlink_to(other)
    with pytest.raises(UserError, match="one image that can be used"):
        prepare_own(str(photos), tmp_path / "home")


def test_what_is_to_be_prepared_yet(tmp_path: Path) -> None:
    assert not is_raw("synthetic")
    assert not is_raw("a-name-of-nothing")
    assert is_raw(str(tmp_path))
    assert is_raw(f"file://{tmp_path}")
    (tmp_path / "manifest.json").write_text("{}")
    assert not is_raw(str(tmp_path))


def test_a_set_and_a_folder_of_one_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    manifest, library = tiny.write(tmp_path / "library" / "photos"), tmp_path / "library"
    photos = tmp_path / "photos"
    photos.mkdir()
    assert not is_raw("photos")  # no image in it
    (photos / "a.jpg").write_bytes(encoded(0))
    for name in ("photos", "./photos"):
        with pytest.raises(
            UserError, match=rf"{name}: which one\? {library}/photos is .* {photos} "
        ):
            is_raw(name)
    assert is_raw(str(photos))
    assert not is_raw(str(library / "photos"))
    made_of_it = manifest.model_copy(update={"source": str(photos)})
    save_manifest(made_of_it, library / "photos")
    assert not is_raw("photos")


@pytest.mark.parametrize(
    "names",
    [
        ("rome/1.jpg", "paris/2.jpg", "images/3.jpg"),
        ("rome/1.jpg", "paris/2.jpg", "test/3.jpg"),
        ("cam1/images/1.jpg", "cam2/images/1.jpg", "cam3/1.jpg"),
        ("test/1.jpg", "test/2.jpg"),
    ],
)
def test_folders_called_as_a_layouts_by_chance_leave_no_image_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    assert sets_of(tmp_path, names, monkeypatch) == {
        "train": {name.removesuffix(".jpg") for name in names}
    }


@pytest.mark.parametrize("shown", ["labels/3.png", "train.txt"])
def test_a_layout_that_is_meant_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    path = tmp_path / "photos" / shown
    path.parent.mkdir(parents=True)
    path.write_text("3\n4\n")
    names = ("rome/1.jpg", "images/3.jpg", "images/4.jpg", "test/2.jpg")
    assert sets_of(tmp_path, names, monkeypatch) == {"train": {"3", "4"}}


def test_splits_that_are_there_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("train/1.jpg", "val/2.jpg")
    assert sets_of(tmp_path, names, monkeypatch) == {"train": {"1"}, "val": {"2"}}


def sets_of(
    tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> dict[str, set[str]]:
    """Says which images `prepare_own` would write in which split."""
    for number, name in enumerate(names):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))

    class WrittenError(Exception):
        pass

    def write_set(images: ImageSet, *_: object, **__: object) -> None:
        raise WrittenError(images)

    monkeypatch.setattr(own, "write_set", write_set)
    with pytest.raises(WrittenError) as caught:
        prepare_own(str(tmp_path / "photos"), tmp_path / "home")
    (images,) = caught.value.args
    return {split: {entry.id for entry in entries} for split, entries in images.splits.items()}
