"""Small JSON files: read back as they were written, or told as damaged."""

import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from usseg_ray.core.records import DamagedError, read_json, write_json


@dataclass
class Note:
    name: str
    scores: dict[str, float]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    note = Note("größer", {"a": 1.5, "b": math.inf, "c": -math.inf})
    write_json(tmp_path / "new" / "note.json", asdict(note))
    assert read_json(tmp_path / "new" / "note.json", Note, "") == note


def test_what_is_no_number_stays_so(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan})
    assert math.isnan(read_json(tmp_path / "a.json", dict[str, float], "")["a"])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "Invalid JSON: EOF"),
        (b"null", "should be an object"),
        (b"[]", "should be an object"),
        (b"\xff\0", "Invalid JSON"),
        (b'{"name": "a"}', "scores: Field required"),
        (b'{"name": 1, "scores": {}}', "name: Input should be a valid string"),
        (b'{"name": "a", "scores": {"b": "1"}}', "scores.b: Input should be a valid number"),
    ],
)
def test_anything_else_is_told_in_a_line_with_its_cure(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError) as told:
        read_json(path, Note, "Remove it.")
    message = str(told.value)
    assert message.startswith(f"{path} is damaged: ")
    assert fault in message
    assert message.endswith(". Remove it.")
    assert "\n" not in message


def test_a_missing_file_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", Note, "")


@pytest.mark.parametrize("value", [asdict(Note("größer", {"a": 0.5, "b": 30.0})), 8, ["a", "b"]])
def test_no_bit_that_flips_changes_a_value(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "note.json"
    write_json(path, value)
    whole = path.read_bytes()
    assert read_json(path, type(value), "") == value
    for bit in range(0, 8 * len(whole), 3):  # every place in a byte, in turn
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        # The key of the sum itself is not under it: without it the rest is believed, as it was.
        with suppress(DamagedError):
            found = read_json(path, type(value), "")
            kept: object = found
            if isinstance(value, dict) and isinstance(found, dict):
                kept = {k: v for k, v in found.items() if k in value}
            assert kept == value


def test_a_digit_that_flips_is_told(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_json(path, {"score": 0.5})
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))
    with pytest.raises(DamagedError, match=r"has not the sha256 .* Remove it\."):
        read_json(path, dict[str, float], "Remove it.")


def test_what_has_no_sum_is_believed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1.0}')
    assert read_json(tmp_path / "a.json", dict[str, float], "") == {"a": 1.0}
