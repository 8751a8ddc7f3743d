import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from usseg_ray.core.errors import UserError
from usseg_ray.prepare.packed import image_column, is_packed, unpack_images


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_layout_of_hugging_face(tmp_path: Path) -> None:
    values = [
        {"bytes": encoded(0), "path": "../../cow one.jpg"},
        {"bytes": encoded(1, "PNG"), "path": None},
        {"bytes": None, "path": "gone.jpg"},
    ]
    path = tmp_path / "train-00000.parquet"
    masks = [{"bytes": encoded(2, "PNG"), "path": None}] * 3
    pq.write_table(pa.table({"mask": masks, "image": values, "width": [1, 2, 3]}), path)
    assert is_packed(str(path))
    folder = unpack_images(str(path), tmp_path / "home")
    assert names(folder) == [
        "train-00000/000000_cow one.jpg",
        "train-00000/000001_image.png",
    ]
    assert (folder / "train-00000/000000_cow one.jpg").read_bytes() == encoded(0)
    assert folder.is_relative_to(tmp_path / "home")


def test_which_column_has_the_images() -> None:
    held = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert image_column(pa.schema([("a", held), ("b", pa.string())]), "x") == "a"
    assert image_column(pa.schema([("mask", held), ("Image", held)]), "x") == "Image"
    with pytest.raises(UserError, match=r"several that could be \(a, b\)"):
        image_column(pa.schema([("a", held), ("b", pa.binary())]), "x")
    with pytest.raises(UserError, match="It has none"):
        image_column(pa.schema([("b", pa.string())]), "x")


def test_webdataset_has_one_image_a_sample(tmp_path: Path) -> None:
    jpg, png = encoded(0), encoded(1, "PNG")
    members = {
        "a/1.png": png,
        "a/1.jpg": jpg,
        "a/1.cls": b"3",
        "a/1.seg.png": png,
        "b/1.png": png,
        "../../out.jpg": jpg,
        "a/._1.jpg": b"",
    }
    folder = unpack_images(str(archive(tmp_path / "00.tar", members)), tmp_path / "home")
    assert names(folder) == ["00/a/1.jpg", "00/b/1.png", "00/out.jpg"]
    assert not (tmp_path / "out.jpg").exists()


def test_a_source_is_laid_out_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    path = archive(tmp_path / "00.tar", {"1.jpg": encoded(0)})
    first = unpack_images(str(path), tmp_path / "home")
    made = (first / "00" / "1.jpg").stat().st_mtime_ns
    assert unpack_images(str(path), tmp_path / "home") == first
    assert (first / "00" / "1.jpg").stat().st_mtime_ns == made
    archive(path, {"1.jpg": encoded(0), "2.jpg": encoded(1)})
    assert unpack_images(str(path), tmp_path / "home") != first


def test_a_folder_of_archives_and_a_uri_of_images(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    archive(source / "00.tar", {"1.jpg": encoded(0)})
    assert is_packed(str(source))
    (source / "photo.jpg").write_bytes(encoded(2))
    assert not is_packed(str(source))
    assert not is_packed(str(tmp_path / "lost"))
    folder = unpack_images(f"file://{source}", tmp_path / "home")
    assert names(folder) == ["00/1.jpg", "photo.jpg"]


def test_what_runs_left_beside_archives_is_not_laid_out(tmp_path: Path) -> None:
    archive(tmp_path / "a.tar", {"1.jpg": encoded(0)})
    for name in (".prepared/x/b.jpg", "out/predict.json", "out/names.yaml", "out/masks/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(1))
    assert is_packed(str(tmp_path))
    assert names(unpack_images(str(tmp_path), tmp_path / ".prepared")) == ["a/1.jpg"]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    bad = tmp_path / "x.tar"
    bad.write_bytes(b"text" * 300)
    with pytest.raises(UserError, match=r"x\.tar: cannot be read"):
        unpack_images(str(bad), tmp_path / "home")
    with pytest.raises(UserError, match="no images in it"):
        unpack_images(str(archive(bad, {"1.txt": b"x"})), tmp_path / "home")
    with pytest.raises(UserError, match="Give a folder, a bucket or an archive"):
        unpack_images(f"file://{tmp_path}/lost", tmp_path / "home")


NAMES = {
    "long": ["a.jpg", "a" * 300 + ".JPG"],
    "below a file": ["a.jpg", "a.jpg/b.jpg"],
    "a folder's": ["a.jpg/b.jpg", "a.jpg"],
    "of two": ["a.jpg", "b" * 300 + ".png", "c" * 300 + ".png"],
}


@pytest.mark.parametrize("called", NAMES.values(), ids=NAMES)
def test_names_that_no_file_can_have_are_replaced(tmp_path: Path, called: list[str]) -> None:
    images = {name: encoded(number) for number, name in enumerate(called)}
    source = archive(tmp_path / "x.tar", images)
    folder = unpack_images(str(source), tmp_path / "home")
    laid_out = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.read_bytes() for path in laid_out} == set(images.values())
    renamed = [path for path in laid_out if path.name.startswith("renamed-")]
    assert len(renamed) == len(called) - 1
    assert all(path.suffix in (".jpg", ".png") for path in renamed)


def test_a_table_whose_names_are_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"imagenamed": [encoded(0)]}), path)
    path.write_bytes(path.read_bytes().replace(b"imagenamed", b"image\xf7amed"))
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read"):
        unpack_images(str(path), tmp_path / "home")
