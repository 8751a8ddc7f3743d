from pathlib import Path

import numpy as np
import pytest

from tests.rasters import raster, tiff
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.raster import Raster, has_rasters, opened_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

BANDS = np.random.default_rng(0).integers(0, 4096, (4, 30, 20), np.uint16)
NAMES = ("blue", "green", "red", "nir")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return raster(tmp_path / "x.tif", BANDS, NAMES)


@pytest.mark.parametrize(
    ("bands", "numbers"),
    [
        ((), (0, 1, 2)),
        (("3", "2", "1"), (2, 1, 0)),
        (("Red", "4", "blue"), (2, 3, 0)),
        (("nir",), (3, 3, 3)),
    ],
)
def test_bands_are_chosen_by_number_or_name(
    path: Path, bands: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    with opened_raster(path) as dataset:
        file = Raster(dataset, bands)
        assert (file.height, file.width, file.deep) == (30, 20, True)
        found = file.read(3, 5, 10, 12)
    assert np.array_equal(found, np.moveaxis(BANDS[list(numbers), 3:13, 5:17], 0, -1))


@pytest.mark.parametrize("band", ["5", "swir", "-1"])
def test_a_band_that_is_missing_is_named(path: Path, band: str) -> None:
    with (
        opened_raster(path) as dataset,
        pytest.raises(UndecodableError, match=f"no band '{band}': it has 4, called blue, green"),
    ):
        Raster(dataset, (band,))


def test_a_file_may_be_bytes(path: Path) -> None:
    with opened_raster(path.read_bytes()) as dataset:
        assert np.array_equal(Raster(dataset).read(0, 0, 30, 20)[..., 0], BANDS[0])
    with pytest.raises(UndecodableError), opened_raster(b"no raster"):
        pass


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero_at_any_depth(kind: type) -> None:
    top = int(np.iinfo(kind).max)
    grey = np.array([[0, top, 40]], kind)
    # Pillow turns bytes over when it writes them, and nothing else.
    shown = grey[0].tolist() if kind == np.uint8 else [top, 0, top - 40]
    with opened_raster(tiff(grey, tiffinfo={262: 0})) as dataset:
        file = Raster(dataset)
        assert file.read(0, 0, 1, 3)[0, :, 0].tolist() == shown
        assert sorted(file.numbers(8)[0].tolist()) == sorted(shown)


def test_what_has_no_data_is_said_and_not_among_the_numbers(tmp_path: Path) -> None:
    bands = np.full((1, 8, 8), 700, np.float32)
    bands[:, :3] = -9999
    with opened_raster(raster(tmp_path / "x.tif", bands, nodata=-9999)) as dataset:
        file = Raster(dataset)
        absent = file.absent(0, 8)
        assert absent is not None
        assert absent.any(1).tolist() == [True] * 3 + [False] * 5
        assert {len(band) for band in file.numbers(8)} == {40}


def test_wide_numbers_become_float32(tmp_path: Path) -> None:
    with opened_raster(raster(tmp_path / "x.tif", np.full((1, 8, 8), 0.5))) as dataset:
        assert Raster(dataset).read(0, 0, 8, 8).dtype == np.float32


def test_the_extra_is_found() -> None:
    assert has_rasters()
