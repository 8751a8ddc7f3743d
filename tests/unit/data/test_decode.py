import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import (
    MAX_PIXELS,
    check_label,
    decode_image,
    decode_label,
)

ORIENTATION = 0x0112


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    channels = (4 * columns, 5 * rows, 2 * rows + 2 * columns)
    return np.stack(channels, axis=-1).astype(np.uint8)


def noise() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def encoded(form: str, **options: Any) -> bytes:
    return encode(Image.fromarray(picture()), form, **options)


def png(width: int, height: int, depth: int, colour: int, scanlines: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

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


@pytest.mark.parametrize(("num_classes", "top"), [(3, 2), (None, 8)])
def test_check_label_names_a_value_outside_the_classes(num_classes: int | None, top: int) -> None:
    labels = np.array([[0, 12, 12]], np.int32)
    with pytest.raises(UndecodableError, match=rf"value 12 .*0 to {top}.*index 9 \(2 pixels\)"):
        check_label(labels, 1, 3, num_classes=num_classes, ignore_index=9)
