import numpy as np
import pytest
from rasterio.io import MemoryFile

from tests.outputs import IGNORED, NAMES, UTM, about, mask_of, strips, written
from usseg_ray.outputs.geotiff import FORMAT


def test_rasterio_reads_place_outputs_and_colours() -> None:
    mask = mask_of(300, 280)
    of = about(mask, place=UTM)
    with MemoryFile(written(FORMAT, of, strips(mask, 256))) as file, file.open() as dataset:
        assert np.array_equal(dataset.read(1), mask)
        assert dataset.crs.to_epsg() == 32633
        assert tuple(dataset.transform)[:6] == UTM.transform
        assert dataset.nodata == IGNORED
        table = dataset.colormap(1)
        assert dataset.block_shapes == [(256, 256)]
    assert [table[output][:3] for output in NAMES.outputs] == [
        tuple(NAMES.palette[output].tolist()) for output in NAMES.outputs
    ]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the reader
def test_an_image_without_a_place_has_none_after() -> None:
    mask = mask_of()
    with MemoryFile(written(FORMAT, about(mask), strips(mask))) as file, file.open() as dataset:
        assert dataset.crs is None
        assert np.array_equal(dataset.read(1), mask)
