from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy import ndimage

from tests.outputs import NAMES, gathered, mask_of
from usseg_ray.outputs.base import titles
from usseg_ray.outputs.coco import ANNOTATIONS, FORMAT, category

# Of pycocotools' own code, on NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MASKS = {"a b/ü.jpg": mask_of(), "c.png": np.full((6, 5), 255, np.uint8), "d.png": mask_of(33, 70)}


def opened(path: Path) -> COCO:
    return COCO(str(gathered(FORMAT, ANNOTATIONS, MASKS, path)))


def test_pycocotools_reads_the_masks_again(tmp_path: Path) -> None:
    coco = opened(tmp_path)
    assert [image["file_name"] for image in coco.dataset["images"]] == list(MASKS)
    for image in coco.dataset["images"]:
        mask = MASKS[image["file_name"]]
        found = np.full(mask.shape, 255, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            part = coco.annToMask(annotation).astype(bool)
            assert (found[part] == 255).all()
            found[part] = annotation["category_id"] - 1
            rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == part.sum()
            assert ndimage.label(part)[1] == 1
        assert np.array_equal(found, mask)


def test_categories_are_outputs_with_names_of_their_own(tmp_path: Path) -> None:
    categories = opened(tmp_path).dataset["categories"]
    assert [entry["id"] for entry in categories] == [category(o) for o in NAMES.outputs]
    assert [entry["name"] for entry in categories] == [*titles(NAMES).values()]


def test_connected_parts_are_one_annotation_each(tmp_path: Path) -> None:
    coco = opened(tmp_path)
    mask = MASKS["d.png"]
    parts = sum(ndimage.label(mask == output)[1] for output in NAMES.outputs)
    assert len(coco.getAnnIds(imgIds=3)) == parts
    assert coco.getAnnIds(imgIds=2) == []
