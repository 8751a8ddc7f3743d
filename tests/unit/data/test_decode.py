import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.encoded import chunk, encode, encoded, noise, picture
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import (
    BYTES_PER_PIXEL,
    MAX_PIXELS,
    check_header,
    check_label,
    decode_image,
    decode_label,
    guarded,
)

ORIENTATION = 0x0112


def png(width: int, height: int, depth: int, colour: int, scanlines: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_lossless_formats_give_the_exact_pixels(form: str, options: dict[str, Any]) -> None:
    pixels = decode_image(encoded(form, **options))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, picture())


def test_lossless_webp_gives_the_exact_pixels() -> None:
    np.testing.assert_array_equal(decode_image(encoded("WEBP", lossless=True)), picture())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_jpeg_agrees_with_pillow(options: dict[str, Any]) -> None:
    data = encoded("JPEG", quality=90, **options)
    by_pillow = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode_image(data).astype(int) - by_pillow).max() <= 2


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(data).astype(int) - picture()).mean() < 4


def test_jpeg_with_harmless_extra_bytes_is_read() -> None:
    data = encoded("JPEG")
    padded = data[:-2] + bytes(10) + data[-2:]
    np.testing.assert_array_equal(decode_image(padded), decode_image(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grey_is_repeated_over_the_channels(form: str) -> None:
    grey = Image.fromarray(picture()).convert("L")
    pixels = decode_image(encode(grey, form))
    assert pixels.shape == (48, 64, 3)
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_byte(form: str) -> None:
    deep = Image.fromarray(np.array([[0, 255, 256, 40000, 65535]], np.uint16))
    assert decode_image(encode(deep, form))[0, :, 0].tolist() == [0, 0, 1, 156, 255]


def test_16_bit_rgb_keeps_its_upper_byte() -> None:
    samples = struct.pack(">6H", 0, 300, 65535, 256, 512, 40000)
    pixels = decode_image(png(2, 1, 16, 2, b"\0" + samples))
    assert pixels.tolist() == [[[0, 1, 255], [1, 2, 156]]]


def test_32_bit_samples_are_refused() -> None:
    data = encode(Image.fromarray(np.full((4, 4), 300, np.int32)), "TIFF")
    with pytest.raises(UndecodableError, match="32-bit samples"):
        decode_image(data)


def test_palette_is_looked_up_and_transparency_dropped() -> None:
    few = Image.fromarray(picture() // 128 * 128)
    np.testing.assert_array_equal(decode_image(encode(few.quantize(8), "PNG")), np.asarray(few))
    clear = Image.fromarray(picture())
    clear.putalpha(3)
    np.testing.assert_array_equal(decode_image(encode(clear, "PNG")), picture())


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    def corner(pixels: np.ndarray) -> list[bool]:
        ends = pixels[[2, 2, -3, -3], [2, -3, 2, -3], 0]
        return [bool(end > 128) for end in ends]

    seen = np.zeros((16, 32, 3), np.uint8)
    seen[:8, :16] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    upright = decode_image(encode(Image.fromarray(seen), form, exif=exif))
    turned = orientation >= 5
    assert upright.shape == ((32, 16, 3) if turned else (16, 32, 3))
    # The light corner, upper left as stored, as EXIF 2.3 names where row 0 and column 0 belong.
    place = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    assert corner(upright) == [index == place for index in range(4)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_files_are_refused(form: str, share: float) -> None:
    data = encode(noise(), form)
    with pytest.raises(UndecodableError):
        decode_image(data[: int(share * len(data))])


def test_a_jpeg_whose_scan_ends_early_is_refused_even_with_an_end_marker() -> None:
    data = encode(noise(), "JPEG")
    with pytest.raises(UndecodableError, match="truncated"):
        decode_image(data[: len(data) // 2] + b"\xff\xd9")


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(["JPEG", "PNG", "BMP"]),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_damage_gives_a_picture_or_an_undecodable_error(
    form: str, place: float, value: int
) -> None:
    data = bytearray(encoded(form))
    data[int(place * len(data))] = value
    try:
        pixels = decode_image(bytes(data))
    except UndecodableError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not a JPEG"),
        (encoded("PPM"), "not a JPEG"),
    ],
)
def test_other_formats_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        decode_image(data)


def test_header_is_bounded_before_pixels_are_made() -> None:
    bomb = png(65000, 65000, 8, 2, b"")
    for decode in (decode_image, decode_label):
        with pytest.raises(UndecodableError, match="65000x65000 is above the limit of 64"):
            decode(bomb)


def test_jpeg_header_is_bounded() -> None:
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    assert MAX_PIXELS < 60000**2
    with pytest.raises(UndecodableError, match="60000x60000"):
        decode_image(bytes(data))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_labels_of_any_depth_keep_their_numbers(depth: int) -> None:
    numbers = np.arange(8) % 2**depth
    bits = "".join(f"{number:0{depth}b}" for number in numbers)
    line = int(bits, 2).to_bytes(len(bits) // 8, "big")
    labels = decode_label(png(8, 1, depth, 0, b"\0" + line))
    assert labels.dtype == np.int32
    assert labels[0].tolist() == numbers.tolist()


def test_16_bit_labels_keep_their_numbers() -> None:
    numbers = np.array([[0, 255, 256, 26001]], np.uint16)
    np.testing.assert_array_equal(decode_label(encode(Image.fromarray(numbers), "PNG")), numbers)


@pytest.mark.parametrize("colours", [2, 4, 16, 200])
def test_palette_labels_are_indices_not_colours(colours: int) -> None:
    numbers = np.arange(colours, dtype=np.uint8)[None]
    image = Image.fromarray(numbers).convert("P")
    image.putpalette([255 - value % 256 for value in range(3 * colours)])
    np.testing.assert_array_equal(decode_label(encode(image, "PNG", bits=8)), numbers)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_labels_in_colour_are_refused(mode: str) -> None:
    with pytest.raises(UndecodableError, match=f"one channel of class indices, this one is {mode}"):
        decode_label(encode(Image.fromarray(picture()).convert(mode), "PNG"))


def test_labels_must_be_png_and_whole() -> None:
    with pytest.raises(UndecodableError, match="must be a PNG"):
        decode_label(encoded("JPEG"))
    data = encode(Image.fromarray(picture()[..., 0]), "PNG")
    with pytest.raises(UndecodableError):
        decode_label(data[:-40])


def test_check_label_accepts_classes_and_the_ignore_index() -> None:
    labels = np.array([[0, 1], [2, 255]], np.int32)
    check_label(labels, 2, 2, num_classes=3, ignore_index=255)
    check_label(labels, 2, 2, num_classes=None, ignore_index=255)


def test_check_label_names_another_size() -> None:
    with pytest.raises(UndecodableError, match="the label is 3x2, its image 4x2"):
        check_label(np.zeros((2, 3), np.int32), 2, 4, num_classes=3, ignore_index=255)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_without_its_end_marker_is_read(options: dict[str, Any]) -> None:
    data = encode(noise(), "JPEG", **options)
    np.testing.assert_array_equal(decode_image(data[:-2]), decode_image(data))


def test_bigtiff_is_read() -> None:
    data = encode(Image.fromarray(picture()), "TIFF", big_tiff=True)
    assert data[2] == 43
    np.testing.assert_array_equal(decode_image(data), picture())


def test_gif_and_avif_are_read() -> None:
    frames = [Image.fromarray(picture() // 128 * 128), noise()]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(gif), picture() // 128 * 128)
    assert np.abs(decode_image(encoded("AVIF", quality=95)).astype(int) - picture()).mean() < 4


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_16_bit_samples_that_would_all_be_black_are_refused(form: str, bits: int) -> None:
    deep = Image.fromarray((np.arange(64, dtype=np.uint16) * (2**bits // 64))[None])
    with pytest.raises(UndecodableError, match="16 bits use less than a sixteenth"):
        decode_image(encode(deep, form))


def test_16_bit_colours_that_would_all_be_black_are_refused() -> None:
    samples = struct.pack(">6H", 0, 300, 4095, 256, 512, 4000)
    with pytest.raises(UndecodableError, match="less than a sixteenth"):
        decode_image(png(2, 1, 16, 2, b"\0" + samples))


def test_white_is_zero_at_16_bits_too() -> None:
    deep = Image.fromarray(np.array([[0, 65535, 40000]], np.uint16))
    inverted = decode_image(encode(deep, "TIFF", tiffinfo={262: 0}))
    assert inverted[0, :, 0].tolist() == [255, 0, 255 - 156]


def test_whatever_a_library_raises_is_a_reason() -> None:
    for error in (TypeError("no"), struct.error("short"), MemoryError(), RecursionError("deep")):
        with pytest.raises(UndecodableError), guarded():
            raise error


MEASURE = """
import resource, sys
from usseg_ray.data.decode import decode_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
data, before = open(sys.argv[1], "rb").read(), peak()
height, width, _ = decode_image(data).shape
print((peak() - before) / (height * width))
"""


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_memory_of_one_image_is_bounded(form: str, tmp_path: Path) -> None:
    if form == "PNG":
        data = png(3000, 3000, 16, 6, (b"\0" + b"\x90" * 8 * 3000) * 3000)
    else:
        data = encode(Image.new("RGBA", (3000, 3000)), form)
    (tmp_path / "x").write_bytes(data)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "x")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(told) <= BYTES_PER_PIXEL + 2  # and what the libraries load for themselves


@pytest.mark.parametrize(("num_classes", "top"), [(3, 2), (None, 8)])
def test_check_label_names_a_value_outside_the_classes(num_classes: int | None, top: int) -> None:
    labels = np.array([[0, 12, 12]], np.int32)
    with pytest.raises(UndecodableError, match=rf"value 12 .*0 to {top}.*index 9 \(2 pixels\)"):
        check_label(labels, 1, 3, num_classes=num_classes, ignore_index=9)


def heic(image: Image.Image, **options: Any) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(image).save(stream, **options)
    return bytes(stream.getvalue())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_heic_is_read_with_its_extra(mode: str) -> None:
    plain = Image.new("RGB", (40, 24), (200, 30, 60)).convert(mode)
    wanted = np.broadcast_to(np.asarray(plain.convert("RGB")), (24, 40, 3)).astype(int)
    assert np.abs(decode_image(heic(plain, quality=95)) - wanted).max() <= 4


def test_heic_is_turned_once() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    left_red = np.zeros((24, 40, 3), np.uint8)
    left_red[:, :20, 0] = 255
    turned = decode_image(heic(Image.fromarray(left_red), quality=95, exif=exif.tobytes()))
    assert turned.shape == (40, 24, 3)
    assert turned[:15, :, 0].min() > 200
    assert turned[25:, :, 0].max() < 50


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_heic_is_refused(share: float) -> None:
    data = heic(noise())
    with pytest.raises(UndecodableError):
        decode_image(data[: int(len(data) * share)])


def branded(data: bytes, major: bytes, *others: bytes) -> bytes:
    """Names other brands in the first box of an AVIF or HEIC file."""
    (size,) = struct.unpack_from(">I", data)
    box = major + data[12:16] + b"".join(others)
    box += b"mif1" * ((size - 8 - len(box)) // 4)
    return bytes(data[:8] + box + data[8 + len(box) :])


@pytest.mark.parametrize(
    ("major", "others"),
    [(b"mif1", (b"heic",)), (b"msf1", ()), (b"heix", ()), (b"hevc", (b"mif1",))],
)
def test_heic_is_known_by_any_of_its_brands(major: bytes, others: tuple[bytes, ...]) -> None:
    data = heic(Image.new("RGB", (40, 24), (200, 30, 60)))
    assert decode_image(branded(data, major, *others)).shape == (24, 40, 3)


def test_avif_is_known_by_any_of_its_brands() -> None:
    data = encode(Image.new("RGB", (40, 24), (200, 30, 60)), "AVIF")
    assert decode_image(branded(data, b"mif1", b"avif")).shape == (24, 40, 3)


WITHOUT_HEIC = """
import sys
sys.modules["pillow_heif"] = None  # as where the extra is not installed
from usseg_ray.data.decode import decode_image
try:
    decode_image(open(sys.argv[1], "rb").read())
except ValueError as error:
    print(error)
"""


def test_heic_without_its_extra_is_told_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "renamed.jpg"
    path.write_bytes(branded(heic(noise()), b"mif1", b"heic"))
    command = [sys.executable, "-c", WITHOUT_HEIC, str(path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told == "a HEIC file, which is read with an extra: pip install 'usseg-ray[heic]'\n"


def test_a_header_says_what_would_take_too_much() -> None:
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        check_header(encoded(form), 48 * 64)
        with pytest.raises(UndecodableError, match="64x48 is above the limit"):
            check_header(encoded(form), 48 * 64 - 1)
    with pytest.raises(UndecodableError, match="65x1 is a strip"):
        check_header(encode(Image.new("RGB", (65, 1)), "PNG"), 2**20)
    data = encoded("JPEG")
    at = data.index(b"\xff\xda")
    with pytest.raises(UndecodableError, match="scans of 64x48 would take too long"):
        check_header(data[:at] + b"\xff\xda" * 400_000 + data[at:], 2**20)
    with pytest.raises(UndecodableError, match="empty file"):
        check_header(b"", 2**20)
