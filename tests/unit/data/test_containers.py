"""What the bytes of a file say, read without making a pixel."""

import struct
import zlib

import pytest

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


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


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
