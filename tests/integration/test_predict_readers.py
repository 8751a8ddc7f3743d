"""Formats of annotation tools, read by the tools' own libraries.

They want older packages than this one, so they get an environment of their own.
"""

import json
import subprocess
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.outputs import NAMES, gathered, mask_of
from usseg_ray.outputs import cvat, label_studio

pytestmark = [pytest.mark.slow, pytest.mark.lengthy]

PACKAGES = ("datumaro>=1.10", "label-studio-sdk>=2.0")

MASKS = {"a b/ü.jpg": mask_of(), "c.png": mask_of(33, 70)}

READ_CVAT = """
import json, sys
import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset

dataset = Dataset.import_from(sys.argv[1], "voc_segmentation")
labels = [label.name for label in dataset.categories()[AnnotationType.label]]
found = {}
for item in dataset:
    masks = [a for a in item.annotations if a.type == AnnotationType.mask]
    whole = np.full(masks[0].image.shape, -1)
    for mask in masks:
        whole[mask.image.astype(bool)] = mask.label
    found[item.id] = whole.tolist()
json.dump({"labels": labels, "found": found}, open(sys.argv[2], "w"))
"""

READ_BRUSHES = """
import json, sys
from label_studio_sdk.converter.brush import decode_rle

found = {}
for task in json.load(open(sys.argv[1])):
    for result in task["predictions"][0]["result"]:
        size = result["original_height"], result["original_width"], 4
        pixels = decode_rle(result["value"]["rle"]).reshape(size)[:, :, 3]
        label, = result["value"]["brushlabels"]
        found.setdefault(task["data"]["image"], {})[label] = pixels.tolist()
json.dump(found, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the libraries of the tools."""
    folder = tmp_path_factory.mktemp("readers")
    venv.create(folder, with_pip=True)
    program = folder / "bin" / "python"
    quiet = ("-q", "--disable-pip-version-check")
    subprocess.run([program, "-m", "pip", "install", *quiet, *PACKAGES], check=True, timeout=900)
    return program


def read(python: Path, program: str, source: Path, folder: Path) -> dict[str, object]:
    found = folder / "found.json"
    subprocess.run([python, "-c", program, source, found], check=True, timeout=300, cwd=folder)
    return dict(json.loads(found.read_text()))


def test_datumaro_reads_the_masks_for_cvat(python: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(gathered(cvat.FORMAT, cvat.ARCHIVE, MASKS, tmp_path)) as archive:
        archive.extractall(tmp_path / "voc")
    told = read(python, READ_CVAT, tmp_path / "voc", tmp_path)
    labels, found = told["labels"], told["found"]
    assert isinstance(labels, list)
    assert isinstance(found, dict)
    assert labels == ["background", "road old", "sky (1)", "sky (2)", "shadow"]
    assert set(found) == {"a b/ü", "c"}
    for name, mask in MASKS.items():
        numbers = np.array(found[name.rpartition(".")[0]])
        for number, output in enumerate(NAMES.outputs, 1):
            assert np.array_equal(numbers == number, mask == output)
        assert (numbers[mask == 255] <= 0).all()


def test_label_studios_library_reads_the_brushes(python: Path, tmp_path: Path) -> None:
    tasks = gathered(label_studio.FORMAT, label_studio.TASKS, MASKS, tmp_path)
    found = read(python, READ_BRUSHES, tasks, tmp_path)
    assert len(found) == 2
    for brushes, mask in zip(found.values(), MASKS.values(), strict=True):
        assert isinstance(brushes, dict)
        for pixels, output in zip(brushes.values(), NAMES.outputs, strict=True):
            assert np.array_equal(np.array(pixels) == 255, mask == output)
