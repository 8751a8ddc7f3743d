"""Files of arrays: read back as they were written, or told as damaged."""

import io
from pathlib import Path

import numpy as np
import pytest

from usseg_ray.core.npz import read_arrays
from usseg_ray.core.records import DamagedError


def _written(path: Path) -> bytes:
    np.savez_compressed(path, maps=np.arange(24).reshape(2, 3, 4), ids=np.arange(2))
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = _written(tmp_path / "a.npz")
    for source in (tmp_path / "a.npz", io.BytesIO(data)):
        found = read_arrays(source, {"maps": 3}, "")
        assert found.keys() == {"maps", "ids"}
        assert found["maps"].tolist() == np.arange(24).reshape(2, 3, 4).tolist()


def test_half_a_file_nothing_and_flipped_bits_are_told_in_a_line(tmp_path: Path) -> None:
    whole = _written(tmp_path / "a.npz")
    middle = len(whole) // 3
    damaged = [b"", b"\0" * 64, b"PK\x03\x04", whole[: len(whole) // 2], whole[:-4]]
    damaged.append(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    for number, data in enumerate(damaged):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"is damaged: .+\. Remove it\.$") as told:
            read_arrays(path, {"maps": 3}, "Remove it.")
        assert str(told.value).startswith(str(path))
        assert "\n" not in str(told.value)


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    whole, path = _written(tmp_path / "a.npz"), tmp_path / "flipped.npz"
    expected = {"maps": np.arange(24).reshape(2, 3, 4), "ids": np.arange(2)}
    refused = 0
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_arrays(path, {"maps": 3, "ids": 1}, "")
        except DamagedError:
            refused += 1
        else:  # a date, or another part that says nothing
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert refused > 200


def test_python_objects_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", maps=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DamagedError, match="is damaged"):
        read_arrays(tmp_path / "a.npz", {"maps": 1}, "")


@pytest.mark.parametrize("dims", [{"ids": 2}, {"other": 1}])
def test_an_array_that_is_missing_or_of_another_shape_is_named(
    tmp_path: Path, dims: dict[str, int]
) -> None:
    _written(tmp_path / "a.npz")
    (name,) = dims
    with pytest.raises(DamagedError, match=f"{name} should be an array of {dims[name]} dim"):
        read_arrays(tmp_path / "a.npz", dims, "")


def test_a_missing_file_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz", {}, "")
