import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.outputs import NAMES, gathered, mask_of
from usseg_ray.models.names import Name, Names
from usseg_ray.outputs.cvat import ARCHIVE, FORMAT, labelmap

MASKS = {"a b/ü.jpg": mask_of(), "c.png": mask_of(20, 30)}


def test_colours_of_the_masks_are_those_of_the_label_map(tmp_path: Path) -> None:
    with zipfile.ZipFile(gathered(FORMAT, ARCHIVE, MASKS, tmp_path)) as archive:
        lines = archive.read("labelmap.txt").decode().splitlines()[1:]
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        picture = Image.open(io.BytesIO(archive.read("SegmentationClass/a b/ü.png")))
        seen = np.asarray(picture)
    assert listed == ["a b/ü", "c"]
    table = {line.split(":")[0]: [*map(int, line.split(":")[1].split(","))] for line in lines}
    assert list(table) == ["background", "road old", "sky (1)", "sky (2)", "shadow"]
    mask = MASKS["a b/ü.jpg"]
    for output, label in zip(NAMES.outputs, list(table)[1:], strict=True):
        assert (seen[mask == output] == table[label]).all()
    assert (seen[mask == 255] == 0).all()


def test_labels_stay_apart_when_signs_are_taken_from_them() -> None:
    names = Names(tuple(Name(name=name, colour="#000000") for name in ("a:b", "a b", "background")))
    labels = [line.split(":")[0] for line in labelmap(names).splitlines()[1:]]
    assert len({*labels}) == 4
