import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from tests.outputs import NAMES, gathered, mask_of
from tests.unit.outputs.test_runs import decoded
from usseg_ray.outputs.label_studio import FORMAT, SET_UP, TASKS

MASKS = {"a b/ü.jpg": mask_of(), "c.png": np.full((6, 5), 255, np.uint8)}


def test_each_output_has_a_brush_that_is_its_mask(tmp_path: Path) -> None:
    tasks = json.loads(gathered(FORMAT, TASKS, MASKS, tmp_path).read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=a%20b/%C3%BC.jpg"
    (prediction,) = tasks[0]["predictions"]
    assert 0 < prediction["score"] <= 1
    mask = MASKS["a b/ü.jpg"]
    for output, result in zip(NAMES.outputs, prediction["result"], strict=True):
        size = (result["original_height"], result["original_width"])
        assert size == mask.shape
        found = decoded(result["value"]["rle"]).reshape(*size, 4)[..., 3]
        assert np.array_equal(found == 255, mask == output)
    assert tasks[1]["predictions"][0]["result"] == []


def test_the_set_up_has_the_labels_of_the_brushes(tmp_path: Path) -> None:
    tasks = json.loads(gathered(FORMAT, TASKS, MASKS, tmp_path).read_text())
    tree = ET.fromstring(gathered(FORMAT, SET_UP, MASKS, tmp_path).read_text())
    labels = [label.get("value") for label in tree.iter("Label")]
    used = [result["value"]["brushlabels"] for result in tasks[0]["predictions"][0]["result"]]
    assert [[label] for label in labels] == used
