import os
from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.outputs.places import find_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def keys(root: Path | str, out: Path | None = None) -> dict[str, str]:
    found = find_images(str(root), str(out or "/nowhere")).found
    return {image.name: image.key for image in found}


def test_names_are_mirrored_and_kept_apart(tmp_path: Path) -> None:
    touch(tmp_path, "a b/日本.JPG", "c.jpg", "c.png", "d/c.tif", "d.e.webp", "notes.txt", ".x.png")
    assert keys(tmp_path) == {
        "a b/日本.JPG": "a b/日本",
        "c.jpg": "c.jpg",
        "c.png": "c.png",
        "d/c.tif": "d/c",
        "d.e.webp": "d.e",
    }
    assert find_images(str(tmp_path), "/nowhere").notes == (
        "2 files passed over: .txt 1, hidden 1.",
    )


def test_no_two_images_have_one_key(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "x.png", "x.jpg.png", "x.jpg.png.tif", "y.jpg.png")
    assert keys(tmp_path) == {
        "x.jpg": "x.jpg",
        "x.png": "x.png",
        "x.jpg.png": "x.jpg.png",
        "x.jpg.png.tif": "x.jpg.png.tif",
        "y.jpg.png": "y.jpg",
    }


def test_names_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg")
    for name in (b"\xe9.jpg", b"\xe8/y.jpg"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert keys(tmp_path) == {"x.jpg": "x"}
    assert find_images(str(tmp_path), "/nowhere").notes == (
        "2 files passed over: names that are not UTF-8 2.",
    )
    with pytest.raises(UserError, match="the name is not UTF-8"):
        find_images(str(tmp_path / os.fsdecode(b"\xe8")), "/nowhere")


def test_a_uri_has_the_names_of_its_folder(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "a b/x.jpg", "y.png")
    assert keys((tmp_path / "photos").as_uri()) == keys(tmp_path / "photos")


def test_a_file_is_an_image_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "x y.jpg", "other.jpg")
    assert keys(tmp_path / "x y.jpg") == {"x y.jpg": "x y"}


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "outside/secret.jpg", "photos/x.jpg")
    photos = tmp_path / "photos"
    (photos / "out.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (photos / "folder").symlink_to(tmp_path / "outside")
    (photos / "broken.jpg").symlink_to(photos / "gone.jpg")
    (photos / "inside.jpg").symlink_to(photos / "x.jpg")
    found = find_images(str(photos), "/nowhere")
    assert [image.name for image in found.found] == ["inside.jpg", "x.jpg"]
    assert found.notes == (
        "3 files passed over: broken links and the like 1, links out of the folder 1, "
        "links to folders 1.",
    )


def test_a_place_is_one_folder_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "photos/x.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    for place in ("photos", "photos/x.jpg", "link", str(photos), photos.as_uri()):
        assert find_images(place, "/nowhere").folder == str(photos)


def test_outputs_below_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "out/masks/x.png")
    assert keys(tmp_path, tmp_path / "out") == {"x.jpg": "x"}


def test_what_runs_left_among_the_images_is_none(tmp_path: Path) -> None:
    outputs = ("first/predict.json", "first/names.yaml", "first/masks/x.png")
    touch(tmp_path, "x.jpg", "mlartifacts/1/mosaic.png", *outputs)
    assert keys(tmp_path) == keys(tmp_path.as_uri()) == {"x.jpg": "x"}
    assert find_images(str(tmp_path), "/nowhere").notes == (
        "2 files passed over: folders of runs 2.",
    )


def test_where_there_is_nothing_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder or file"):
        find_images(str(tmp_path / "gone"), "/nowhere")
    touch(tmp_path, "notes.txt")
    with pytest.raises(
        UserError, match=rf"^{tmp_path}: no images here .* 1 files passed over: .txt 1"
    ):
        find_images(str(tmp_path), "/nowhere")
