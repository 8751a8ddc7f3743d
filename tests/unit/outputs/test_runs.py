import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from usseg_ray.outputs.runs import brush, counts_of, packed, spans


def random_mask(seed: int, height: int, width: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


@given(st.integers(0, 2**20), st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1))
def test_counts_are_those_of_cocos_own_encoder(
    seed: int, height: int, width: int, share: float
) -> None:
    mask = random_mask(seed, height, width, share)
    mask[seed % height, seed % width] = True
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    counts = counts_of(part, int(rows[0]), int(columns[0]), mask.shape)
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert sum(counts) == mask.size
    assert packed(counts).encode() == expected


def test_spans_are_half_open() -> None:
    begins, ends = spans(np.array([1, 0, 1, 1, 0], bool))
    assert (begins.tolist(), ends.tolist()) == ([0, 2], [1, 4])


def decoded(data: list[int]) -> np.ndarray:
    """Reads a brush by the published description of its stream, bit by bit."""
    bits, at = "".join(f"{byte:08b}" for byte in data), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    found: list[int] = []
    while len(found) < total:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        found += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    return np.array(found, np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (200, 150)])
def test_a_brush_is_four_equal_bytes_a_pixel(share: float, size: tuple[int, int]) -> None:
    mask = random_mask(1, *size, share)
    found = decoded(brush(mask)).reshape(-1, 4)
    assert (found == found[:, :1]).all()
    assert np.array_equal(found[:, 0].reshape(size), mask * 255)
