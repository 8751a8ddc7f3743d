"""A worker in this process: what it writes, what it says of images that it cannot use."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.outputs import places
from usseg_ray.outputs.formats import FORMATS, parse_formats
from usseg_ray.outputs.manifest import Folder
from usseg_ray.outputs.places import find_images
from usseg_ray.outputs.tiles import Tiling
from usseg_ray.outputs.work import ImageOutcome, Order, Worker

# Files are written in threads, of which each may undo what another one silences.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ALL = parse_formats(",".join(FORMATS))


def photograph(path: Path, number: int, size: tuple[int, int] = (80, 48), turn: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(tiny.picture(number, size)[0]).save(path, exif=exif)


def done(
    model: Path,
    images: Path,
    out: Path,
    formats: tuple[str, ...] = ("png",),
    tiling: Tiling | None = None,
) -> dict[str, str]:
    order = Order(str(model), str(images), str(out), formats, tiling, rasters=True)
    outcomes: list[ImageOutcome] = Worker(order, "cpu", 1)(find_images(str(images), str(out)).found)
    return {outcome.name: outcome.reason for outcome in outcomes}


def test_every_format_mirrors_the_tree(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    photograph(images / "a b" / "ü 日本.jpg", 1)
    photograph(images / "c.png", 2)
    assert done(model, images, out, ALL) == {"a b/ü 日本.jpg": "", "c.png": ""}
    records = Folder(str(out)).done()
    single = {name for name in ALL if FORMATS[name].sink is not None}
    for record in records.values():
        assert set(record.files) == single
        assert sum(record.pixels.values()) == 80 * 48
        for path in record.files.values():
            assert (out / path).stat().st_size > 0
    assert (out / "masks" / "a b" / "ü 日本.png").exists()


def test_masks_are_those_of_the_model_upright_and_of_the_images_size(
    model: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    photograph(images / "turned.png", 1, (80, 48), turn=6)
    done(model, images, out)
    with Image.open(out / "masks" / "turned.png") as picture:
        mask = np.asarray(picture)
    assert mask.shape == (48, 80)
    upright = np.ascontiguousarray(np.rot90(tiny.picture(1, (80, 48))[0], -1))
    assert np.array_equal(mask, segmenter.segment(upright).mask)


def test_segments_are_those_of_the_model_and_stand_in_the_manifest(
    model: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    photograph(images / "a.png", 1)
    done(model, images, out, ("png", "segments"))
    files = Folder(str(out)).done()["a.png"].files
    assert files == {"png": "masks/a.png", "segments": "segments/a.png"}
    with Image.open(out / files["segments"]) as picture:
        found = np.asarray(picture)
    assert np.array_equal(found, segmenter.segments(tiny.picture(1, (80, 48))[0]))
    assert found.max() > 1


def test_broken_images_cost_themselves_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    photograph(images / "good.png", 1)
    photograph(images / "long.png", 2, (2, 200))
    photograph(images / "large.png", 2, (80, 60))
    (images / "text.jpg").write_text("text")
    (images / "empty.png").write_bytes(b"")
    (images / "cut.jpg").write_bytes((images / "good.png").read_bytes()[:100])
    (images / "huge.png").write_bytes(b"x" * 40_000)
    monkeypatch.setattr(places, "MAX_FILE_BYTES", 30_000)
    monkeypatch.setitem(FORMATS, "png", replaced_limit())
    reasons = done(model, images, out)
    assert {name for name, reason in reasons.items() if not reason} == {"good.png"}
    assert reasons["text.jpg"].startswith("not a JPEG, PNG")
    assert reasons["empty.png"] == "empty file"
    assert "strip" in reasons["long.png"]
    assert reasons["large.png"] == "60x80 is above the 0 megapixels that png holds"
    assert "larger than" in reasons["huge.png"]
    assert set(Folder(str(out)).done()) == {"good.png"}


def replaced_limit() -> object:
    from dataclasses import replace

    return replace(FORMATS["png"], most_pixels=80 * 50)


def test_a_place_that_cannot_be_written_ends_it(model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    photograph(images / "good.png", 1)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"--out .*: cannot be written"):
        done(model, images, tmp_path / "out")


def geotiff(path: Path, side: int, dtype: str = "uint16", nodata: int | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = tiny.picture(3, (side, side))[0]
    bands = np.moveaxis(image, -1, 0).astype(dtype) * (12 if dtype == "uint16" else 1)
    if nodata is not None:
        bands[:, :10, :] = nodata
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=side,
        width=side,
        dtype=dtype,
        crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        nodata=nodata,
        tiled=True,
        blockxsize=128,
        blockysize=128,
    ) as dataset:
        dataset.write(bands)
    return bands


def test_tiles_of_a_geotiff_keep_its_place(
    model: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    geotiff(images / "scene.tif", 300, nodata=0)
    formats = ("png", "confidence", "parquet", "geotiff", "geojson", "geopackage")
    assert done(model, images, out, formats, Tiling(128)) == {"scene.tif": ""}
    with rasterio.open(out / "geotiff" / "scene.tif") as dataset:
        mask = dataset.read(1)
        assert dataset.crs.to_epsg() == 32633
        assert dataset.transform.e == -10
        names = segmenter.names
        assert dataset.colormap(1)[1][:3] == tuple(names.palette[1].tolist())
        assert dataset.nodata == 255
    assert (mask[:10] == 255).all()
    assert (mask[10:] != 255).all()
    with Image.open(out / "masks" / "scene.png") as picture:
        assert np.array_equal(np.asarray(picture), mask)
    with rasterio.open(out / "confidence" / "scene.tif") as dataset:
        assert (dataset.read(1)[:10] == 0).all()
    tree = json.loads((out / "geojson" / "scene.geojson").read_text())
    assert 10 < tree["features"][0]["geometry"]["coordinates"][0][0][0] < 20
    record = Folder(str(out)).done()["scene.tif"]
    assert sum(record.pixels.values()) == 290 * 300


def test_a_geotiff_without_tiles_keeps_its_place_too(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    geotiff(images / "scene.tif", 64, "uint8")
    assert done(model, images, out, ("geotiff",)) == {"scene.tif": ""}
    with rasterio.open(out / "geotiff" / "scene.tif") as dataset:
        assert dataset.crs.to_epsg() == 32633


@pytest.mark.parametrize("uri", [False, True])
def test_what_has_no_data_is_in_no_mask_without_tiles_either(
    model: Path, tmp_path: Path, uri: bool
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    geotiff(images / "scene.tif", 64, "uint8", nodata=0)
    place = images.as_uri() if uri else str(images)
    order = Order(str(model), place, str(out), ("png",), None, rasters=True)
    (outcome,) = Worker(order, "cpu", 1)(find_images(place, str(out)).found)
    assert outcome.reason == ""
    mask = np.asarray(Image.open(out / "masks" / "scene.png"))
    assert (mask[:10] == 255).all()
    assert (mask[10:] != 255).mean() > 0.99


def test_a_tiff_that_lies_turned_is_cut_upright(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    photograph(images / "x.tif", 4, (60, 96), turn=6)
    assert done(model, images, out, ("png",), Tiling(48)) == {"x.tif": ""}
    with Image.open(out / "masks" / "x.png") as mask:
        assert mask.size == (60, 96)


def test_a_geotiff_at_a_uri_is_read_by_window(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    geotiff(images / "scene.tif", 200)
    order = Order(str(model), images.as_uri(), str(out), ("png",), Tiling(128), rasters=True)
    found = find_images(images.as_uri(), str(out)).found
    assert [outcome.reason for outcome in Worker(order, "cpu", 1)(found)] == [""]
    (images / "scene.tif").write_bytes((images / "scene.tif").read_bytes()[:600])
    (outcome,) = Worker(order, "cpu", 1)(found)
    assert outcome.reason


def test_photographs_are_cut_into_tiles_in_memory(model: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    photograph(images / "x.png", 4, (90, 300))
    assert done(model, images, out, ("png", "overlay"), Tiling(64)) == {"x.png": ""}
    data = (out / "overlays" / "x.jpg").read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (300, 90)
