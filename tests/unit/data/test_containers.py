"""What the bytes of a file say, read without making a pixel."""

import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.encoded import chunk, encode, encoded, noise, picture, segment
from usseg_ray.data.containers import (
    AVIF,
    HEIC,
    MAX_SCANNED,
    ORIENTATION_TAG,
    PNG,
    UndecodableError,
    check_scans,
    container_of,
    jpeg_exif,
    orientation,
    plain_png,
)
from usseg_ray.data.decode import decode_image, decode_label, turn_of


def block(value: int, order: str = "<") -> bytes:
    """An EXIF block that says how a picture lies, and nothing else."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", ORIENTATION_TAG, 3, 1, value, 0)
    return start + struct.pack(f"{order}IH", 8, 1) + entry


def test_a_png_keeps_pixels_and_gives_its_exif_apart() -> None:
    pixels = chunk(b"IHDR", b"head") + chunk(b"IDAT", b"pixels")
    whole = PNG + pixels + chunk(b"tEXt", b"words") + chunk(b"eXIf", b"turned") + chunk(b"IEND")
    assert plain_png(whole) == (PNG + pixels + chunk(b"IEND"), b"turned")
    with pytest.raises(UndecodableError, match="the checksum of its part b'IDAT' is wrong"):
        plain_png(whole.replace(b"pixels", b"pixelz"))
    with pytest.raises(UndecodableError, match="truncated"):
        plain_png(whole[:-20])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [1, 6, 8])
def test_a_turn_is_read_in_either_order_of_bytes(order: str, value: int) -> None:
    assert orientation(block(value, order)) == value
    assert orientation(b"Exif\0\0" + block(value, order)) == value


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"neither", block(9), block(0), block(6)[:12]])
def test_a_turn_that_is_none_turns_nothing(exif: bytes) -> None:
    assert orientation(exif) == 1


def test_exif_lies_behind_other_segments_and_padding() -> None:
    exif = b"Exif\0\0" + block(3)
    other, held = b"\xff\xe0\0\x04ab", b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert jpeg_exif(b"\xff\xd8" + other + b"\xff" + held + b"\xff\xda") == exif
    assert jpeg_exif(b"\xff\xd8" + other + b"\xff\xda" + held) == b""


def test_brands_tell_containers() -> None:
    def box(*brands: bytes) -> bytes:
        body = b"ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])
        return struct.pack(">I", len(body) + 4) + body

    assert container_of(box(b"mif1", b"avif")) == AVIF
    assert container_of(box(b"mif1", b"miaf")) == HEIC
    assert container_of(box(b"isom", b"mp42")) == b""
    assert container_of(b"\0\0\0\x20moov") == b""


def test_scans_are_worth_their_pixels() -> None:
    side = 2**14
    most = MAX_SCANNED // side**2
    check_scans(b"\xff\xda" * most, side, side)
    with pytest.raises(UndecodableError, match=f"{most + 1} scans of {side}x{side}"):
        check_scans(b"\xff\xda" * (most + 1), side, side)


# The same, as it tells in what is decoded.


def with_exif(form: str, block: bytes) -> bytes:
    if form == "JPEG":
        data = encoded("JPEG")
        return data[:2] + segment(0xE1, block) + data[2:]
    return encoded(form, exif=block)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0nonsense that is no header",
        b"Exif\0\0II*\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0" + block(6)[:-6],
        b"Exif\0\0" + block(99),
    ],
)
def test_a_broken_exif_block_costs_the_turn_and_not_the_picture(form: str, block: bytes) -> None:
    assert decode_image(with_exif(form, block)).shape == (48, 64, 3)


@pytest.mark.parametrize("others", [0, 1, 5])
def test_exif_is_found_behind_any_number_of_segments(others: int) -> None:
    data = encoded("JPEG")
    before = segment(0xED, bytes(60_000)) * others + b"\xff" * others
    turned = data[:2] + before + segment(0xE1, b"Exif\0\0" + block(6)) + data[2:]
    assert decode_image(turned).shape == (64, 48, 3)
    assert turn_of(turned) == 6


def test_orientation_in_xmp_alone_turns_nothing() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = encoded("JPEG")
    assert decode_image(data[:2] + segment(0xE1, xmp) + data[2:]).shape == (48, 64, 3)
    assert decode_image(encoded("WEBP", xmp=xmp[29:])).shape == (48, 64, 3)


def test_png_with_large_text_and_profile_is_read() -> None:
    data = encoded("PNG")
    at = data.index(b"IDAT") - 4
    bodies = {b"zTXt": b"key\0\0" + zlib.compress(bytes(70_000_000), 1), b"iCCP": b"x\0\0broken"}
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in bodies.items()
    ]
    np.testing.assert_array_equal(decode_image(data[:at] + b"".join(parts) + data[at:]), picture())


@pytest.mark.parametrize("part", [b"IHDR", b"IDAT", b"tEXt"])
def test_a_png_whose_checksum_is_wrong_is_damaged(part: bytes) -> None:
    info = PngInfo()
    info.add_text("key", "value")
    data = bytearray(encode(noise().convert("L"), "PNG", pnginfo=info))
    at = data.index(part)
    (length,) = struct.unpack_from(">I", data, at - 4)
    data[at + 4 + length] ^= 1
    for decode in (decode_image, decode_label):
        with pytest.raises(UndecodableError, match=f"checksum of its part {part!r} is wrong"):
            decode(bytes(data))


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    data = encoded("JPEG")
    at = data.index(b"\xff\xda")
    with pytest.raises(UndecodableError, match="scans of 64x48 would take too long"):
        decode_image(data[:at] + data[at:-2] * 400_000 + data[-2:])


def test_scans_inside_a_tiff_are_counted_too() -> None:
    data = encode(noise(), "TIFF", compression="jpeg")
    assert decode_image(data).shape == (48, 64, 3)
    with pytest.raises(UndecodableError, match=r"scans of .* would take too long"):
        decode_image(data + b"\xff\xda" * 400_000)


def test_scans_of_many_tiles_are_no_reason() -> None:
    image = Image.new("RGB", (4096, 4096))
    strips = encode(image, "TIFF", compression="jpeg", strip_size=16 * 3 * 4096)
    assert decode_image(strips).shape == (4096, 4096, 3)
    assert strips.count(b"\xff\xda") * 4096**2 > MAX_SCANNED


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_files_of_very_many_parts_are_refused(form: str) -> None:
    data = encoded(form)
    part = chunk(b"teXt", b"") if form == "PNG" else b"\xff\xfe\0\2"
    at = 33 if form == "PNG" else 2
    assert decode_image(data[:at] + part * 1000 + data[at:]).shape == (48, 64, 3)
    with pytest.raises(UndecodableError, match="more than 262144 parts"):
        decode_image(data[:at] + part * 2**18 + data[at:])


@pytest.mark.parametrize("seen", ["flat", "noise"])
def test_the_dearest_scans_that_are_allowed_take_seconds(seen: str) -> None:
    side = 512
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    shown = pixels if seen == "noise" else np.zeros_like(pixels)
    data = encode(Image.fromarray(shown), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    few = MAX_SCANNED // 32 // side**2 - data.count(b"\xff\xda")
    begun = time.process_time()
    decode_image(data[:-2] + data[at:-2] * few + data[-2:])
    # A 32nd of what is allowed: half a minute at most for all of it, a third of that measured.
    assert time.process_time() - begun < 1
