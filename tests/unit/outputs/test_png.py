import io

import numpy as np
import pytest
from PIL import Image

from tests.outputs import IGNORED, NAMES, about, mask_of, strips, written
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import About, Strip
from usseg_ray.outputs.png import FORMAT


@pytest.mark.parametrize("rows", [None, 1, 7, 40])
def test_pillow_reads_outputs_and_colours_however_they_came(rows: int | None) -> None:
    mask = mask_of()
    with Image.open(io.BytesIO(written(FORMAT, about(mask), strips(mask, rows)))) as picture:
        picture.verify()
    with Image.open(io.BytesIO(written(FORMAT, about(mask), strips(mask, rows)))) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), mask)
        seen = np.asarray(picture.convert("RGB"))
    for output in NAMES.outputs:
        assert (seen[mask == output] == NAMES.palette[output]).all()
    assert (mask == IGNORED).any()


def test_many_clusters_are_grey_of_16_bits() -> None:
    names = Names.default(300)
    mask = np.arange(300, dtype=np.uint16).reshape(10, 30)
    of = About("x.png", "x", 10, 30, names)
    image = np.zeros((10, 30, 3), np.uint8)
    data = written(FORMAT, of, [Strip(mask, np.ones((10, 30), np.float32), image)])
    with Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(np.asarray(picture), mask)
