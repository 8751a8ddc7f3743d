"""What is refused before any work; that a set is made and found again: integration/test_fit.py."""

from pathlib import Path

import pytest

from tests import tiny
from tests.unit.prepare.test_packed import encoded
from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import save_manifest
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
