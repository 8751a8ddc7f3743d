import io

import numpy as np
import pytest
import scipy.io

from usseg_ray.data.conversion import classes_of, png_bytes, read_mat
from usseg_ray.data.decode import UndecodableError, decode_image, decode_label


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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a MATLAB file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a MATLAB file"),
        (mat(img=np.zeros((3, 3), np.uint8))[:150], "not a MATLAB file"),
        (mat(a=np.zeros((3, 3), np.uint8), b=np.zeros((3, 3), np.uint8)), "one array of bytes"),
        (mat(img=np.zeros((3, 3))), "one array of bytes"),
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
