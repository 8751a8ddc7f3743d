from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rasters import raster, tiff
from usseg_ray.core.errors import UserError
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import decode_label
from usseg_ray.prepare import windows as module
from usseg_ray.prepare.entries import Entry, ImageSet, Window
from usseg_ray.prepare.windows import Windows, cut_large

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

BANDS = np.random.default_rng(0).integers(0, 4096, (3, 100, 130), np.uint16)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(module, "TILE", 60)


def found(*entries: Entry) -> ImageSet:
    return ImageSet("x", (), 255, None, entries)


def entry(path: Path, label: Path | None = None) -> Entry:
    return Entry(path.stem, "train", str(path), None if label is None else str(label))


def windows_of(images: ImageSet) -> list[Window]:
    cuts = [entry.cut for entry in cut_large(images).entries]
    return [cut for cut in cuts if isinstance(cut, Window)]


@pytest.mark.parametrize("tiled", [True, False])
def test_tiles_cover_every_pixel_once(tiled: bool, tmp_path: Path) -> None:
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64} if tiled else {"blockysize": 10}
    path = raster(tmp_path / "scene.tif", BANDS, **blocks)
    images = cut_large(found(entry(path)))
    assert [entry.id for entry in images.entries] == [
        f"scene_{row:02d}_{column:02d}" for row in range(2) for column in range(3)
    ]
    whole = np.zeros((100, 130, 3), np.uint16)
    with Windows() as windows:
        for window in windows_of(found(entry(path))):
            part = np.s_[
                window.top : window.top + window.height, window.left : window.left + window.width
            ]
            assert not whole[part].any()
            whole[part] = windows.image(str(path), window)
    assert np.array_equal(whole, np.moveaxis(BANDS, 0, -1))
    assert images.notes == (
        "1 image above 0 megapixels cut into 6 tiles of at most 60x60 (names end in _ROW_COLUMN), "
        "labels alike.",
    )


def test_labels_are_cut_alike(tmp_path: Path) -> None:
    path = raster(tmp_path / "scene.tif", BANDS)
    numbers = np.random.default_rng(1).integers(0, 300, (100, 130), np.uint16)
    Image.fromarray(numbers).save(tmp_path / "label.png")
    images = found(entry(path, tmp_path / "label.png"))
    with Windows() as windows:
        for cut in windows_of(images):
            label = decode_label(windows.label(str(tmp_path / "label.png"), cut))
            part = numbers[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width]
            assert np.array_equal(label, part)


def test_a_palette_keeps_its_numbers_and_colours_stay_colours(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 3, (100, 130), np.uint8)
    picture = Image.fromarray(numbers, mode="P")
    picture.putpalette([9, 9, 9, 80, 0, 0, 0, 80, 0])
    picture.save(tmp_path / "palette.png", bits=2)
    picture.convert("RGB").save(tmp_path / "painted.png")
    window = Window(10, 20, 30, 40, (100, 130))
    with Windows() as windows:
        label = decode_label(windows.label(str(tmp_path / "palette.png"), window))
        assert np.array_equal(label, numbers[10:40, 20:60])
        painted = windows.label(str(tmp_path / "painted.png"), window)
    with pytest.raises(UndecodableError, match="this one is RGB"):
        decode_label(painted)


def test_a_label_of_another_size_is_said(tmp_path: Path) -> None:
    Image.new("L", (130, 99)).save(tmp_path / "label.png")
    with (
        Windows() as windows,
        pytest.raises(UndecodableError, match="is 130x99, its image 130x100"),
    ):
        windows.label(str(tmp_path / "label.png"), Window(0, 0, 50, 65, (100, 130)))


def test_what_cannot_be_read_by_window_stays(tmp_path: Path) -> None:
    small = raster(tmp_path / "small.tif", BANDS[:, :60, :60])
    strip = raster(tmp_path / "strip.tif", BANDS, blockysize=100)
    (tmp_path / "turned.tif").write_bytes(tiff(BANDS[0], tiffinfo={274: 6, 278: 5}))
    Image.new("L", (130, 100)).save(tmp_path / "large.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    others = ("turned.tif", "large.png", "broken.tif", "lost.tif")
    images = found(*map(entry, (small, strip, *(tmp_path / name for name in others))))
    assert cut_large(images) is images


def test_without_the_extra_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = found(entry(raster(tmp_path / "scene.tif", BANDS)))
    monkeypatch.setattr(module, "has_rasters", lambda: False)
    assert cut_large(images) is images


def test_a_tile_that_is_called_as_another_image_is_refused(tmp_path: Path) -> None:
    scene = raster(tmp_path / "scene.tif", BANDS)
    twin = raster(tmp_path / "scene_01_02.tif", BANDS[:, :50, :50])
    with pytest.raises(UserError, match=r"are both called 'scene_01_02'\. Rename one"):
        cut_large(found(entry(scene), entry(twin)))


def test_bands_are_chosen_or_asked_for(tmp_path: Path) -> None:
    four = np.concatenate([BANDS, BANDS[:1]])
    path = str(raster(tmp_path / "scene.tif", four, photometric="MINISBLACK"))
    window = Window(0, 0, 10, 10, (100, 130))
    with Windows() as windows, pytest.raises(UndecodableError, match="--bands 3,2,1"):
        windows.image(path, window)
    with Windows(("3", "2", "4")) as windows:
        chosen = windows.image(path, window)
    assert np.array_equal(chosen, np.moveaxis(four[[2, 1, 3], :10, :10], 0, -1))
