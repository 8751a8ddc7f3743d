import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.encoded import encode, noise
from tests.rasters import deep_png, raster, tiff
from usseg_ray.data import numbers as module
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import BYTES_PER_PIXEL, decode_image
from usseg_ray.data.numbers import decode_numbers, decode_seen, depth_of, is_plain, seen
from usseg_ray.data.scaling import AS_THEY_ARE, Scaling, Sight

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 4096, (24, 32, 4), np.uint16)
SCALED = Sight(scaling=Scaling(low=(0, 0, 0), high=(4095, 4095, 4095)))


def expected(numbers: np.ndarray) -> np.ndarray:
    return (numbers * (255 / 4095)).round()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_gives_its_numbers(channels: int) -> None:
    found = decode_numbers(deep_png(DEEP[..., :channels]))
    colours = DEEP[..., :3] if channels > 2 else DEEP[..., :1].repeat(3, -1)
    assert np.array_equal(found, colours)


def test_pngs_of_16_bits_are_turned() -> None:
    exif = Image.Exif()
    exif[274] = 6
    plain = deep_png(DEEP[..., :3])
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG", exif=exif)
    block = stream.getvalue()
    at = block.index(b"eXIf") - 4
    length = int.from_bytes(block[at : at + 4]) + 12
    turned = plain[:33] + block[at : at + length] + plain[33:]
    assert np.array_equal(decode_numbers(turned), np.rot90(DEEP[..., :3], -1))


def test_tiffs_give_their_numbers(tmp_path: Path) -> None:
    bands = np.moveaxis(DEEP[..., :3], -1, 0)
    for kind in (np.uint16, np.int16, np.float32, np.uint32):
        path = raster(tmp_path / f"{np.dtype(kind)}.tif", bands.astype(kind))
        found = decode_numbers(path.read_bytes())
        assert found.dtype == kind
        assert np.array_equal(found, DEEP[..., :3])
    assert np.array_equal(
        decode_numbers(raster(tmp_path / "x.tif", bands).read_bytes(), ("3", "1", "2")),
        DEEP[..., [2, 0, 1]],
    )


def test_a_turned_tiff_is_turned() -> None:
    data = tiff(DEEP[..., 0], tiffinfo={274: 6})
    assert np.array_equal(decode_numbers(data)[..., 0], np.rot90(DEEP[..., 0], -1))


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_grey_tiffs_are_the_same_without_the_extra(
    kind: type, white: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiff(DEEP[..., 0].astype(kind), tiffinfo={262: white})
    by_raster = decode_numbers(data)
    monkeypatch.setattr(module, "has_rasters", lambda: False)
    assert np.array_equal(decode_numbers(data), by_raster)


def test_other_tiffs_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = raster(tmp_path / "x.tif", np.moveaxis(DEEP[..., :3], -1, 0)).read_bytes()
    monkeypatch.setattr(module, "has_rasters", lambda: False)
    with pytest.raises(UndecodableError, match=r"usseg-ray\[geo\]"):
        decode_numbers(data)


def test_files_of_8_bits_are_seen_as_they_are() -> None:
    for form in ("PNG", "JPEG", "TIFF", "WEBP"):
        data = encode(noise(), form)
        assert is_plain(data, SCALED)
        assert np.array_equal(decode_seen(data, SCALED), decode_image(data))


def test_12_bits_of_16_are_never_black() -> None:
    data = deep_png(DEEP[..., :3])
    assert not is_plain(data, SCALED)
    assert np.array_equal(decode_seen(data, SCALED), expected(DEEP[..., :3]))
    with pytest.raises(UndecodableError, match="less than a sixteenth"):
        decode_seen(data, AS_THEY_ARE)


def test_16_bits_are_seen_by_their_upper_byte_without_a_scaling() -> None:
    data = deep_png(DEEP[..., :3] * 16)
    assert is_plain(data, AS_THEY_ARE)
    assert np.array_equal(decode_seen(data, AS_THEY_ARE), DEEP[..., :3] // 16)


def test_numbers_without_a_scaling_are_refused() -> None:
    with pytest.raises(UndecodableError, match="are uint16, and those of the training images fit"):
        seen(DEEP[..., :3], AS_THEY_ARE)


def test_bands_that_say_no_colours_must_be_chosen(tmp_path: Path) -> None:
    bands = np.moveaxis(np.concatenate([DEEP, DEEP], -1), -1, 0).astype(np.uint8)
    data = raster(tmp_path / "x.tif", bands, photometric="MINISBLACK").read_bytes()
    with pytest.raises(UndecodableError, match=r"8 bands do not say .* prepare --bands 3,2,1"):
        decode_seen(data, AS_THEY_ARE)
    chosen = decode_seen(data, Sight(bands=("4", "2", "8")))
    assert np.array_equal(chosen, np.moveaxis(bands[[3, 1, 7]], 0, -1))


def test_bands_are_of_tiff_files() -> None:
    with pytest.raises(UndecodableError, match="TIFF files, and this is none"):
        decode_seen(encode(noise(), "JPEG"), Sight(bands=("3", "2", "1")))


@pytest.mark.parametrize(
    ("kind", "depth"),
    [(np.uint8, ""), (np.uint16, "16-bit"), (np.int16, "16-bit"), (np.float32, "float")],
)
def test_depth_is_said(kind: type, depth: str, tmp_path: Path) -> None:
    path = raster(tmp_path / "x.tif", np.zeros((3, 8, 8), kind), BIGTIFF="YES")
    with path.open("rb") as stream:
        assert depth_of(stream) == depth


def test_depth_of_what_is_no_picture_is_none() -> None:
    assert depth_of(io.BytesIO(b"")) == ""
    with pytest.raises(UndecodableError):
        depth_of(io.BytesIO(b"II*\0\xff\xff"))
    # Pillow only warns where the place of the tags lies behind the end; nobody decodes it.
    with pytest.raises(UndecodableError):
        decode_seen(b"II*\0\xff\xff\xff\xff", SCALED)


MEASURE = """
import resource, sys
from usseg_ray.data.numbers import decode_seen
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.data.raster import opened_raster
import rasterio
sight = Sight(scaling=Scaling(low=(0, 0, 0), high=(4095, 4095, 4095)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
data, before = open(sys.argv[1], "rb").read(), peak()
height, width, _ = decode_seen(data, sight).shape
print((peak() - before) / (height * width))
"""


@pytest.mark.parametrize("form", ["png", "tif", "float"])
def test_memory_of_one_deep_image_is_bounded(form: str, tmp_path: Path) -> None:
    path, side = tmp_path / "x", 4000
    if form == "png":
        path.write_bytes(deep_png(np.full((side, side, 4), 999, np.uint16)))
    else:
        kind = np.uint16 if form == "tif" else np.float64
        raster(path, np.full((3, side, side), 999, kind), compress="deflate")
    command = [sys.executable, "-c", MEASURE, str(path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(told) <= BYTES_PER_PIXEL + 2  # and what the libraries load for themselves
