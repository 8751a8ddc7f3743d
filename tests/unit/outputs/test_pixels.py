from pathlib import Path

import numpy as np
import pytest
import rasterio

from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.raster import opened_raster
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.outputs.pixels import DecodedPixels, RasterPixels, decoded

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write(path: Path, bands: np.ndarray, **profile: object) -> Path:
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as dataset:
        dataset.write(bands)
    return path


def test_bytes_are_read_as_they_are(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (4, 30, 20), np.uint8)
    path = write(tmp_path / "x.tif", bands, photometric="MINISBLACK", alpha="NO")
    with opened_raster(path) as dataset:
        pixels = RasterPixels(dataset)
        found = pixels.read(3, 5, 10, 12)
        assert pixels.absent(0, 30) is None
        assert pixels.georeference is None
    assert np.array_equal(found, np.moveaxis(bands[:3, 3:13, 5:17], 0, -1))


def test_12_bits_fill_8_by_percentiles_of_the_file(tmp_path: Path) -> None:
    ramp = np.linspace(100, 4000, 90_000).reshape(1, 300, 300).astype(np.uint16)
    with opened_raster(write(tmp_path / "x.tif", ramp)) as dataset:
        found = RasterPixels(dataset).read(0, 0, 300, 300)
    assert found.shape == (300, 300, 3)
    assert (found[0, 0] == 0).all()
    assert (found[-1, -1] == 255).all()
    assert (found == 0).mean() == pytest.approx(0.02 * 3 / 3, abs=0.005)
    middle = found[150, 0, 0]
    assert abs(int(middle) - 127) <= 1


def test_bands_and_scaling_are_those_of_the_model(tmp_path: Path) -> None:
    ramp = np.linspace(100, 4000, 90_000).reshape(1, 300, 300).astype(np.uint16)
    bands = np.concatenate([ramp, ramp + 1, ramp + 2, ramp * 2])
    path = write(tmp_path / "x.tif", bands)
    scaling = Scaling(low=(0, 100, 200), high=(4095, 4000, 5000))
    with opened_raster(path) as dataset:
        pixels = RasterPixels(dataset, Sight(bands=("4", "3", "1"), scaling=scaling))
        found = pixels.read(10, 20, 30, 40)
    chosen = np.moveaxis(bands[[3, 2, 0], 10:40, 20:60], 0, -1)
    assert np.array_equal(found, scaling.apply(chosen))
    whole = decoded(path.read_bytes(), Sight(bands=("4", "3", "1"), scaling=scaling))
    assert np.array_equal(whole.read(10, 20, 30, 40), found)


def test_what_has_no_data_is_said_and_changes_no_percentile(tmp_path: Path) -> None:
    bands = np.full((3, 40, 40), 700, np.float32)
    bands[:, 20:] = 900
    bands[:, :5] = -9999
    with opened_raster(write(tmp_path / "x.tif", bands, nodata=-9999)) as dataset:
        pixels = RasterPixels(dataset)
        absent = pixels.absent(0, 40)
        found = pixels.read(0, 0, 40, 40)
    assert absent is not None
    assert np.array_equal(absent, np.arange(40)[:, None].repeat(40, 1) < 5)
    assert (found[10], found[30]) == pytest.approx((0, 255))


def test_the_place_is_kept(tmp_path: Path) -> None:
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    path = write(
        tmp_path / "x.tif", np.ones((1, 8, 8), np.uint8), crs="EPSG:32633", transform=place
    )
    with opened_raster(path) as dataset:
        found = RasterPixels(dataset).georeference
    assert found is not None
    assert found.transform == tuple(place)[:6]
    assert rasterio.CRS.from_wkt(found.crs).to_epsg() == 32633


def test_a_file_that_is_none_is_undecodable(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_text("no raster")
    with pytest.raises(UndecodableError), opened_raster(tmp_path / "x.tif"):
        pass
    with pytest.raises(UndecodableError):
        decoded(b"no picture")


def test_an_image_in_memory_is_cut() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    pixels = DecodedPixels(image)
    assert np.array_equal(pixels.read(2, 1, 4, 5), image[2:6, 1:6])
    assert pixels.absent(0, 9) is None
