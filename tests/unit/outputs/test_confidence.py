import io

import numpy as np
from PIL import Image
from rasterio.io import MemoryFile

from tests.outputs import UTM, about, mask_of, strips, written
from usseg_ray.outputs.confidence import FORMAT


def test_255_is_certain() -> None:
    mask = mask_of()
    given = strips(mask)
    with Image.open(io.BytesIO(written(FORMAT, about(mask), strips(mask, 7)))) as picture:
        assert picture.mode == "L"
        found = np.asarray(picture)
    assert np.abs(found / 255 - given[0].confidence).max() <= 0.5 / 255 + 1e-6
    assert found.max() == 255


def test_where_there_is_a_place_its_scale_says_so() -> None:
    mask = mask_of()
    of = about(mask, place=UTM)
    assert FORMAT.suffix(of) == ".tif"
    with MemoryFile(written(FORMAT, of, strips(mask))) as file, file.open() as dataset:
        found = dataset.read(1) * dataset.scales[0]
        assert dataset.crs.to_epsg() == 32633
    assert np.abs(found - strips(mask)[0].confidence).max() <= 0.5 / 255 + 1e-6
