"""What the bytes of a picture file say before a pixel is made: checksums, turns, work to do.

It stands under `decode`. Decoders believe more than they should: Pillow reads past a wrong
checksum, gives up a picture for its text, and takes a minute over scans that add nothing.
"""

import struct
import zlib
from collections.abc import Iterator

JPEG = b"\xff\xd8\xff"

PNG = b"\x89PNG\r\n\x1a\n"

AVIF, HEIC = b"avif", b"heic"

MAX_SCANNED = 2**30
"""Largest number of pixels times scans of a JPEG file: sixteen scans of the largest picture."""

MAX_PARTS = 2**18
"""Largest number of chunks or segments of a file, each of which costs a step of Python."""

# What pixels are made of; text, colour profiles and the frames of animations are left out.
_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"tRNS"})

_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)

_END = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))

ORIENTATION_TAG = 0x0112


class UndecodableError(ValueError):
    """A file that cannot be used; the message is the reason, without the file's name."""


def plain_png(data: bytes) -> tuple[bytes, bytes]:
    """Checks a PNG file's checksums and keeps what pixels are made of.

    Args:
        data: The file.

    Returns:
        A PNG file of the same pixels without text and profiles, and the EXIF block (empty if there
        is none).

    Raises:
        UndecodableError: A checksum is wrong, or the file ends inside a chunk.
    """
    kept, exif = [PNG], b""
    for kind, chunk in _chunks(data):
        if kind in _NEEDED:
            kept.append(chunk)
        elif kind == b"eXIf":
            exif = chunk[8:-4]
    return b"".join([*kept, _END]), exif


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind and all bytes of each chunk before the end."""
    at, view, parts = len(PNG), memoryview(data), 0
    while at < len(data):
        parts = _counted(parts)
        length, kind = struct.unpack_from(">I4s", data, at) if at + 8 <= len(data) else (0, b"")
        end = at + length + 12
        if end > len(data):
            raise UndecodableError("image file is truncated")
        (stated,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != stated:
            raise UndecodableError(f"damaged: the checksum of its part {kind!r} is wrong")
        if kind == b"IEND":
            return
        yield kind, data[at:end]
        at = end


def jpeg_exif(data: bytes) -> bytes:
    """Finds the EXIF block of a JPEG file, behind however many others; empty if there is none.

    Raises:
        UndecodableError: There are more than `MAX_PARTS`.
    """
    at, parts = 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        parts = _counted(parts)
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        body = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            return body
        at += 2 + length
    return b""


def _counted(parts: int) -> int:
    if parts == MAX_PARTS:
        raise UndecodableError(f"more than {MAX_PARTS} parts, which would take too long to read")
    return parts + 1


def container_of(start: bytes) -> bytes:
    """Tells AVIF from HEIC files by the brands in their first box; the first may name neither.

    Args:
        start: Of the file.

    Returns:
        `AVIF`, `HEIC`, or nothing.
    """
    if start[4:8] != b"ftyp":
        return b""
    end = int.from_bytes(start[:4])
    brands = {start[at : at + 4] for at in (8, *range(16, min(end, len(start)), 4))}
    if brands & {b"avif", b"avis"}:
        return AVIF
    return HEIC if brands & _HEIC_BRANDS else b""


def check_scans(data: bytes, height: int, width: int) -> None:
    """Refuses a JPEG stream with more scans than its size is worth, each of which costs a pass.

    Raises:
        UndecodableError: Pixels times scans are above `MAX_SCANNED`.
    """
    scans = data.count(b"\xff\xda")
    if scans * height * width > MAX_SCANNED:
        raise UndecodableError(f"{scans} scans of {width}x{height} would take too long to decode")


def orientation(exif: bytes) -> int:
    """Reads how an EXIF block says that a picture is to be turned.

    Args:
        exif: The block, with or without `Exif` before it.

    Returns:
        1 to 8 as EXIF numbers them; 1, as it lies, where the block says nothing or is broken.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == ORIENTATION_TAG:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
