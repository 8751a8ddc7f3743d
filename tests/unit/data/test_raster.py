import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rasters import raster, tiff
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import decode_image
from usseg_ray.data.raster import Raster, has_rasters, is_turned, opened_raster

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
    grey: np.ndarray = np.array([[0, top, 40]], kind)
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


@pytest.mark.parametrize("mode", ["P", "1", "L", "RGB"])
def test_a_window_has_the_colours_of_the_whole(mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.quantize(16) if mode == "P" else picture.convert(mode)).save(stream, "TIFF")
    with opened_raster(stream.getvalue()) as dataset:
        file = Raster(dataset)
        assert not file.deep
        found = file.read(2, 3, 10, 20)
    assert np.array_equal(found, decode_image(stream.getvalue())[2:12, 3:23])


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_fill_a_byte(bits: int, tmp_path: Path) -> None:
    ramp = np.arange(2**bits, dtype=np.uint8).reshape(1, 1, -1)
    with opened_raster(raster(tmp_path / "x.tif", ramp, nbits=bits)) as dataset:
        found = Raster(dataset).read(0, 0, 1, 2**bits)[0, :, 0]
    assert found.tolist() == np.linspace(0, 255, 2**bits).round().astype(int).tolist()


@pytest.mark.parametrize(("way", "turned"), [(1, False), (6, True), (2, True)])
def test_whether_a_picture_lies_turned(way: int, turned: bool) -> None:
    assert is_turned(io.BytesIO(tiff(np.zeros((4, 6), np.uint8), tiffinfo={274: way}))) == turned
    with pytest.raises(UndecodableError):
        is_turned(io.BytesIO(b"none"))
