"""Whatever bytes an image has: a picture, or the error that says why there is none."""

import struct
import zlib
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.files import FILES, damaged, edits
from tests.fuzz.values import most_often
from usseg_ray.data.containers import PNG, UndecodableError
from usseg_ray.data.decode import MAX_PIXELS, check_header, decode_image, decode_label, turn_of
from usseg_ray.data.numbers import decode_numbers


@most_often
@given(form=st.sampled_from(sorted(FILES)), made=edits, cut=st.floats(0, 1))
def test_image_bytes(form: str, made: list[tuple[float, bytes]], cut: float) -> None:
    data = damaged(FILES[form], made)
    found = with_right_checksums(data[: int((0.5 + cut) * len(data))])
    for decode in (decode_image, decode_label, turn_of, decode_numbers, checked):
        with suppress(UndecodableError):
            decode(found)


def with_right_checksums(data: bytes) -> bytes:
    """Lets what is damaged in a PNG file reach its decoder."""
    if not data.startswith(PNG):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join([*parts, data[at:]])


def checked(data: bytes) -> None:
    check_header(data, MAX_PIXELS)
