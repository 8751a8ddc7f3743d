import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.prepare.conversion import (
    CORNERS,
    Cutter,
    classes_of,
    corners,
    mean_of_blocks,
    png_bytes,
    read_mat,
)
from usseg_ray.prepare.entries import Cut


def mat(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays)  # type: ignore[arg-type]  # stubs lag behind
    return stream.getvalue()


def test_values_become_classes() -> None:
    values = np.array([[7, 3], [255, 7]], np.int32)
    assert classes_of(values, {7: 0, 3: 1, 255: 255}).tolist() == [[0, 1], [255, 0]]


@pytest.mark.parametrize("value", [4, 9, 300])
def test_an_unknown_value_is_named(value: int) -> None:
    values = np.array([[7, value, value]], np.int32)
    with pytest.raises(UndecodableError, match=rf"value {value} is no label .*\(2 pixels\)"):
        classes_of(values, {7: 0, 3: 1})


def test_tiles_lose_their_infrared() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    assert np.array_equal(read_mat(mat(img=tile)), tile[..., :3])
    assert np.array_equal(read_mat(mat(gt=tile[..., 0])), tile[..., 0])


@pytest.mark.parametrize("kind", [np.int32, np.int16, np.uint16, np.int64])
def test_labels_may_be_integers_of_any_size(kind: type[np.integer]) -> None:
    labels = np.array([[0, 5], [3, 255]], kind)
    assert decode_label(png_bytes(read_mat(mat(gt=labels)))).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a MATLAB file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a MATLAB file"),
        (mat(img=np.zeros((3, 3), np.uint8))[:150], "not a MATLAB file"),
        (mat(a=np.zeros((3, 3), np.uint8), b=np.zeros((3, 3), np.uint8)), "must hold one array"),
        (mat(img=np.zeros((3, 3))), "must hold one array"),
        (mat(img=np.zeros((3, 3, 3), np.int32)), "must hold one array"),
        (mat(gt=np.full((3, 3), -1, np.int32)), "must hold one array"),
        (mat(gt=np.full((3, 3), 2**16, np.int32)), "must hold one array"),
    ],
)
def test_other_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError, match=reason):
        read_mat(data)


def test_png_loses_nothing() -> None:
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (5, 4, 3), np.uint8)
    assert np.array_equal(decode_image(png_bytes(colours)), colours)
    for top in (256, 60_000):
        labels = rng.integers(0, top, (5, 4)).astype(np.int32)
        assert np.array_equal(decode_label(png_bytes(labels)), labels)


def test_a_smaller_picture_has_the_mean_of_each_block() -> None:
    red = [[0, 0, 255, 255], [0, 1, 255, 254], [0, 1, 7, 8], [1, 0, 9, 9]]
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0] = red
    smaller = mean_of_blocks(pixels, 2)
    # Of 0.25, 254.75, 0.5 and 8.25; halves go up.
    assert smaller[..., 0].tolist() == [[0, 255], [1, 8]]
    assert not smaller[..., 1:].any()
    assert np.array_equal(mean_of_blocks(pixels, 1), pixels)


def test_colours_of_a_map_are_corners_and_every_second_pixel_counts() -> None:
    pixels = np.full((2, 8, 3), 77, np.uint8)
    pixels[0, ::2] = [(255, 255, 255), (252, 255, 0), (9, 222, 221), (127, 128, 0)]
    assert (corners(pixels, 2) - CORNERS).tolist() == [[0b111, 0b110, 0b011, 0b010]]


def test_a_picture_is_decoded_once_for_squares_in_a_row(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    for name in "ab":
        (tmp_path / name).write_bytes(png_bytes(colours))
    cutter = Cutter(mean_of_blocks)
    first = cutter.cut(str(tmp_path / "a"), Cut(0, 0, 4, 2))
    (tmp_path / "a").unlink()
    second = cutter.cut(str(tmp_path / "a"), Cut(0, 4, 4, 2))
    assert np.array_equal(decode_image(first), mean_of_blocks(colours[:, :4], 2))
    assert np.array_equal(decode_image(second), mean_of_blocks(colours[:, 4:], 2))
    with pytest.raises(UndecodableError, match="too small for the part at 6, 0"):
        cutter.cut(str(tmp_path / "b"), Cut(0, 6, 4, 2))
    with pytest.raises(FileNotFoundError):
        cutter.cut(str(tmp_path / "a"), Cut(0, 0, 4, 2))
