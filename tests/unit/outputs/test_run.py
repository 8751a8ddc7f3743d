"""What is checked before a run, and gathered after it; the run itself is Ray's."""

from collections import namedtuple
from pathlib import Path

import pytest
from PIL import Image

from tests.outputs import NAMES, about, mask_of, record, strips, written
from usseg_ray.core.errors import UserError
from usseg_ray.models.description import read_description
from usseg_ray.outputs.formats import FORMATS
from usseg_ray.outputs.manifest import Folder, Header
from usseg_ray.outputs.places import find_images
from usseg_ray.outputs.run import check_owner, check_room, gather_all, predict
from usseg_ray.outputs.tiles import Tiling

Usage = namedtuple("Usage", ["total", "used", "free"])


def test_outputs_that_do_not_fit_are_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        Image.new("RGB", (1000, 1000)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_text("no image")
    images = find_images(str(tmp_path), "/nowhere")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 0, 499_999))
    with pytest.raises(UserError, match=r"5 images as png take about 0\.0 GB"):
        check_room(str(tmp_path), images.found, images, ("png",))
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 0, 500_000))
    check_room(str(tmp_path), images.found, images, ("png",))


def test_a_new_folder_is_anybodys(model: Path, tmp_path: Path) -> None:
    header = Header.of(read_description(model), {})
    check_owner(Folder(str(tmp_path / "out")), header, str(tmp_path), overwrite=False)
    with pytest.raises(UserError, match="the folder of the images"):
        check_owner(Folder(str(tmp_path)), header, str(tmp_path), overwrite=True)
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(UserError, match="written by something else"):
        check_owner(Folder(str(tmp_path)), header, "s3://bucket/x", overwrite=False)
    check_owner(Folder(str(tmp_path)), header, "s3://bucket/x", overwrite=True)


def test_images_of_another_folder_are_not_mixed_in(model: Path, tmp_path: Path) -> None:
    summer, winter, out = (tmp_path / name for name in ("summer", "winter", "out"))
    for folder in (summer, winter):
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "a.png")
    about = Header.of(read_description(model), {}, str(summer))
    Folder(str(out)).begin(about, "names")
    with pytest.raises(UserError, match=f"for the images of {summer}. Name another folder, or"):
        predict(model, str(winter / "a.png"), str(out))
    assert Folder(str(out)).header() == about


def test_files_of_all_images_have_those_that_were_written_for_them(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for name in ("b.png", "a.png"):
        of, given = about(mask_of(), name), strips(mask_of())
        folder.write(f"parts/{of.key}", written(FORMATS["coco"], of, given))
        files = {"coco": f"parts/{of.key}"} if name == "a.png" else {}
        folder.note([record(of, given).model_copy(update={"files": files})])
    assert gather_all(folder, ("coco", "parquet"), NAMES) == ("annotations.json", "shares.parquet")
    text = (tmp_path / "annotations.json").read_text()
    assert "a.png" in text
    assert "b.png" not in text


def test_segments_of_tiles_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--save segments sees images whole: leave --tile"):
        predict(model, "images", str(tmp_path), formats=("png", "segments"), tiling=Tiling(64))
    assert not list(tmp_path.iterdir())
