import io

import numpy as np
from PIL import Image

from tests.outputs import IGNORED, NAMES, about, mask_of, strips, written
from usseg_ray.outputs.overlay import FORMAT


def test_segments_are_tinted_and_what_is_ignored_is_not() -> None:
    mask = mask_of(160, 160)
    mask[60:100, 100:150] = IGNORED
    given = strips(mask)
    with Image.open(io.BytesIO(written(FORMAT, about(mask), strips(mask, 50)))) as picture:
        assert picture.format == "JPEG"
        found = np.asarray(picture).astype(float)
    inside = np.zeros_like(mask, bool)
    inside[110:150, 100:150] = True
    inside &= mask == 3
    image = given[0].image.astype(float)
    expected = (9 * NAMES.palette[3].astype(float) + 7 * image[inside][0]) / 16
    assert np.abs(found[inside].mean(0) - expected).max() < 6
    assert np.abs(found[70:90, 110:140] - image[80, 120]).mean() < 6
