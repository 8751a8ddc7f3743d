"""Sets of more than 8 bits, of chosen bands, and of images beyond the limit, through Ray."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.windows import Window

import usseg_ray
from tests import fitting, tiny
from tests.integration.commands import apart
from tests.rasters import raster
from usseg_ray.core.files import resolve
from usseg_ray.data.decode import MAX_PIXELS, decode_image, decode_label
from usseg_ray.data.manifest import Manifest, load_manifest
from usseg_ray.data.scaling import AS_THEY_ARE
from usseg_ray.data.shards import read_rows
from usseg_ray.models.folder import describe, save_model
from usseg_ray.models.loaded import Result
from usseg_ray.outputs.places import find_images
from usseg_ray.outputs.tiles import Tiling
from usseg_ray.outputs.work import Order, Worker
from usseg_ray.prepare.own import prepare_own
from usseg_ray.prepare.write import prepare

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


def rows(out: Path, manifest: Manifest) -> dict[str, tuple[bytes, bytes | None]]:
    filesystem, root = resolve(out)
    tables = [
        read_rows(filesystem, f"{root}/{shard.path}", group)
        for shard in manifest.shards
        for group in range(len(shard.row_groups))
    ]
    found = [row for table in tables for row in table.to_pylist()]
    return {row["id"]: (row["image"], row["label"]) for row in found}


def test_12_bits_are_scaled_and_bytes_beside_them_are_kept(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "set"
    folder.mkdir()
    numbers = np.random.default_rng(0).integers(112, 3891, (40, 50), np.uint16)
    Image.fromarray(numbers).save(folder / "deep.png")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "plain.png")
    prepared = prepare(folder, out)
    manifest = load_manifest(out)
    scaling = manifest.sight.scaling
    assert scaling is not None
    found = rows(out, manifest)
    assert found["plain"][0] == (folder / "plain.png").read_bytes()
    expected = scaling.apply(numbers[..., None].repeat(3, -1))
    assert np.array_equal(decode_image(found["deep"][0]), expected)
    assert scaling.low[0] == pytest.approx(112 + 0.02 * 3779, abs=40)
    assert f"{scaling.words}." in prepared.notes
    again = prepare(folder, out)
    assert not again.fresh
    assert f"{scaling.words}." in again.notes


def test_sets_of_bytes_say_nothing_of_it_and_earlier_manifests_are_read(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "set"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "plain.png")
    assert prepare(folder, out).notes == ()
    path = out / "manifest.json"
    content = json.loads(path.read_text())
    digest = load_manifest(out).digest()
    del content["sight"]
    path.write_text(json.dumps(content))
    earlier = load_manifest(out)
    assert (earlier.sight, earlier.digest()) == (AS_THEY_ARE, digest)
    assert not prepare(folder, out).fresh


def test_bands_are_chosen_on_the_command_line(tmp_path: Path) -> None:
    folder, out = tmp_path / "scenes", tmp_path / "set"
    folder.mkdir()
    bands = np.random.default_rng(0).integers(0, 255, (5, 40, 50), np.uint8)
    names = ("blue", "green", "red", "nir", "swir")
    raster(folder / "a.tif", bands, names, photometric="MINISBLACK")
    told = apart("prepare", "--source", folder, "--out", out)
    assert told.returncode == 2
    assert "--bands 3,2,1" in told.stderr + told.stdout
    told = apart("prepare", "--source", folder, "--out", out, "--bands", "nir,3,2")
    assert told.returncode == 0, told.stderr
    assert "Bands nir, 3, 2 are what is seen." in told.stdout
    manifest = load_manifest(out)
    assert manifest.sight.bands == ("nir", "3", "2")
    (image, _) = rows(out, manifest)["a"]
    assert np.array_equal(decode_image(image), np.moveaxis(bands[[3, 2, 1]], 0, -1))


def test_a_model_of_such_a_set_sees_new_files_as_the_set_did(tmp_path: Path) -> None:
    folder, new = tmp_path / "scenes", tmp_path / "new"
    new.mkdir()
    for split, numbers in {"train": range(8), "val": range(8, 12), "test": range(12, 16)}.items():
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for number in numbers:
            image, label = tiny.picture(number)
            bands = np.moveaxis(image, -1, 0).astype(np.uint16) * 12 + 40
            others = [bands[:1] // 2, bands[::-1]]  # what, blue, green and red are
            raster(folder / split / "images" / f"{number}.tif", np.concatenate(others))
            (folder / split / "labels" / f"{number}.png").write_bytes(tiny.png(label))
    (folder / "dataset.json").write_text(
        json.dumps({"classes": tiny.CLASSES, "ignore_index": tiny.IGNORE})
    )
    out = tmp_path / "set"
    manifest = usseg_ray.prepare(folder, out, bands="4,3,2").prepared.manifest
    run, context = fitting.run_of((str(out), manifest), "kmeans", data__name=str(out))
    run.fit()
    assert context.state is not None
    about = describe("kmeans", run.config, run.featurise.backbone, manifest)
    save_model(tmp_path / "model", about, context.state.method)
    (new / "3.tif").write_bytes((folder / "train" / "images" / "3.tif").read_bytes())
    loaded = usseg_ray.load(tmp_path / "model", device="cpu")
    expected = loaded.predict(decode_image(rows(out, manifest)["3"][0])).mask
    found = loaded.predict(new / "3.tif")
    assert isinstance(found, Result)
    assert np.array_equal(found.mask, expected)
    assert len(np.unique(expected)) > 1
    for tiling in (None, Tiling(32)):
        order = Order(
            str(tmp_path / "model"), str(new), str(tmp_path / f"{tiling}"), ("png",), tiling, True
        )
        (outcome,) = Worker(order, "cpu", 1)(find_images(str(new), order.out).found)
        assert outcome.reason == ""
        with Image.open(Path(order.out) / "masks" / "3.png") as mask:
            assert np.array_equal(np.asarray(mask), expected)


def test_own_images_of_other_bands_are_another_set(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed in range(2):
        bands = np.random.default_rng(seed).integers(0, 4096, (4, 40, 50), np.uint16)
        raster(folder / f"{seed}.tif", bands)
    places = [
        prepare_own(str(folder), tmp_path / "home", bands=bands).prepared
        for bands in (("4", "3", "2"), ("3", "2", "1"), ("4", "3", "2"))
    ]
    assert places[0].out == places[2].out != places[1].out
    assert [place.fresh for place in places] == [True, True, False]


def test_an_image_beyond_the_limit_is_cut(tmp_path: Path) -> None:
    height, width = 8200, 8300
    assert height * width > MAX_PIXELS
    folder, out = tmp_path / "scenes", tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    profile = {"tiled": True, "compress": "deflate", "height": height, "width": width}
    with rasterio.open(
        folder / "images" / "x.tif", "w", driver="GTiff", count=1, dtype="uint16", **profile
    ) as dataset:
        ramp = np.arange(width, dtype=np.uint16)
        for top in range(0, height, 1025):
            rows_of = np.broadcast_to(ramp, (min(1025, height - top), width))
            window = Window(0, top, width, len(rows_of))
            dataset.write(rows_of, 1, window=window)
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    Image.fromarray(label).save(folder / "labels" / "x.png")
    prepared = prepare(folder, out)
    assert prepared.notes[0].startswith("1 image above 64 megapixels cut into 81 tiles")
    found = rows(out, prepared.manifest)
    assert len(found) == prepared.manifest.splits["train"].labelled == 81
    image, numbers = found["x_03_08"]
    scaling = prepared.manifest.sight.scaling
    assert scaling is not None
    shown = decode_image(image)
    left = round(8 * width / 9)
    assert np.array_equal(shown[0], scaling.apply(ramp[left:, None].repeat(3, 1)[None])[0])
    assert numbers is not None
    assert (decode_label(numbers) == 1).all()
    middle = found["x_00_04"][1]
    assert middle is not None
    assert set(np.unique(decode_label(middle))) == {0, 1}
    # One large scene of one's own is enough, too.
    own = prepare_own(str(folder), tmp_path / "home")
    assert own.prepared.manifest.digest() == prepared.manifest.digest()
