from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rasters import raster
from usseg_ray.data.scaling import AS_THEY_ARE, Sight
from usseg_ray.prepare.entries import Entry, ImageSet, Window
from usseg_ray.prepare.survey import survey

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RAMP = np.linspace(100, 4100, 10_000).reshape(100, 100).astype(np.uint16)


def found(*entries: Entry) -> ImageSet:
    return ImageSet("x", (), 255, None, entries)


def entry(path: Path, split: str = "train", cut: Window | None = None) -> Entry:
    return Entry(path.stem, split, str(path), None, cut)


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


def test_numbers_of_the_training_split_decide(ramp: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(tmp_path / "other.png")
    sight = survey(found(entry(tmp_path / "other.png", "test"), entry(ramp)))
    assert sight.scaling is not None
    assert sight.scaling.low == pytest.approx((180, 180, 180), abs=1)
    assert sight.scaling.high == pytest.approx((4020, 4020, 4020), abs=1)
    assert sight.scaling.words.startswith("16-bit: 2 % and 98 % of the training images' values, 1")


def test_without_a_training_split_all_images_decide(ramp: Path) -> None:
    scaling = survey(found(entry(ramp, "mine"))).scaling
    assert scaling is not None
    assert "of the images' values" in scaling.words


def test_bytes_are_seen_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    entries = (entry(tmp_path / name) for name in ("x.png", "broken.tif", "lost.tif"))
    images = found(*entries)
    assert survey(images) == AS_THEY_ARE
    assert survey(images, ("3", "2", "1")) == Sight(bands=("3", "2", "1"))


def test_bands_and_windows_are_those_that_are_seen(tmp_path: Path) -> None:
    bands = np.stack([RAMP, RAMP + 5000, RAMP + 9000]).astype(np.float32)
    path = raster(tmp_path / "x.tif", bands)
    window = Window(0, 0, 50, 100, (100, 100))
    scaling = survey(found(entry(path, cut=window)), ("3",)).scaling
    assert scaling is not None
    assert scaling.low == pytest.approx([9140] * 3, abs=1)
    assert scaling.high == pytest.approx([11060] * 3, abs=1)
    assert scaling.words.startswith("float: ")


def test_files_that_cannot_be_read_decide_nothing(ramp: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(ramp.read_bytes()[:60])
    assert survey(found(entry(tmp_path / "cut.png"))).scaling is None
    assert survey(found(entry(tmp_path / "cut.png"), entry(ramp))).scaling is not None


@pytest.mark.parametrize("cut", [None, Window(0, 0, 100, 100, (100, 100))])
def test_what_has_no_data_does_not_decide(cut: Window | None, tmp_path: Path) -> None:
    numbers = np.linspace(0.2, 0.4, 10_000).reshape(1, 100, 100).astype(np.float32)
    numbers[:, :23] = -9999
    path = raster(tmp_path / "x.tif", numbers, nodata=-9999)
    scaling = survey(found(entry(path, cut=cut))).scaling
    assert scaling is not None
    assert scaling.low == pytest.approx([0.249] * 3, abs=0.002)
    assert "of the training images' values without nodata (23%), 0.2" in scaling.words


def test_a_picture_of_nothing_decides_nothing(tmp_path: Path) -> None:
    path = raster(tmp_path / "x.tif", np.full((1, 9, 9), -1, np.float32), nodata=-1)
    scaling = survey(found(entry(path))).scaling
    assert scaling is not None
    assert (scaling.low, scaling.high[0] > 0) == ((0, 0, 0), True)
