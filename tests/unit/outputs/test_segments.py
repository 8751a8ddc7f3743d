"""Segments as files: numbers as they are, in colours."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.outputs import about, mask_of, strips, written
from usseg_ray.outputs.segments import FORMAT


def test_numbers_are_kept_and_neighbours_differ_in_colour() -> None:
    mask = mask_of()
    numbers = np.arange(mask.size).reshape(mask.shape).astype(np.uint8)
    given = [
        replace(strip, segments=numbers[top : top + 7])
        for top, strip in zip(range(0, len(mask), 7), strips(mask, 7), strict=True)
    ]
    of = about(mask)
    assert FORMAT.suffix(of) == ".png"
    with Image.open(io.BytesIO(written(FORMAT, of, given))) as picture:
        assert np.array_equal(np.asarray(picture), numbers)
        colours = np.array(picture.convert("RGB"))
    assert not colours[numbers == 0].any()
    assert len({tuple(colours[numbers == number][0]) for number in range(1, 25)}) == 24


def test_a_strip_without_segments_is_refused() -> None:
    mask = mask_of()
    with pytest.raises(ValueError, match="without segments"):
        written(FORMAT, about(mask), strips(mask))
