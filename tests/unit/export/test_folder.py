"""A model's folder that needs no other place."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.unit.models.conftest import kept
from usseg_ray.export.folder import write_folder
from usseg_ray.models.description import read_description
from usseg_ray.models.segmenter import Segmenter

IMAGE = tiny.picture(5)[0]
CPU = torch.device("cpu")


def drawn(folder: Path) -> Path:
    """A model on a ViT whose weights a test draws."""
    import timm

    weights = folder / "drawn.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    return kept(folder, "kmeans", weights, backbone__name="test_vit", backbone__layer=None)


def test_weights_that_timm_knows_by_name_come_along(tmp_path: Path) -> None:
    source = drawn(tmp_path)
    opened = Segmenter.open(source, CPU)
    # As of a run whose weights timm fetched.
    note = opened.description.backbone.model_copy(update={"file": None})
    about = opened.description.model_copy(update={"backbone": note})
    write_folder(Segmenter(about, opened.model), source, tmp_path / "out")
    shutil.rmtree(source)
    again = Segmenter.open(tmp_path / "out", CPU)
    assert again.description.backbone.file == "backbone.safetensors"
    assert np.array_equal(again.segment(IMAGE).mask, opened.segment(IMAGE).mask)


def test_a_file_of_weights_and_a_card_of_ones_own_come_along(tmp_path: Path) -> None:
    source = drawn(tmp_path)
    (source / "README.md").write_text("mine")
    opened = Segmenter.open(source, CPU)
    write_folder(opened, source, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    copied = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert copied == files
    assert copied["README.md"] == b"mine"


def test_a_card_that_was_written_here_is_that_of_the_model(model: Path, tmp_path: Path) -> None:
    write_folder(Segmenter.open(model, CPU), model, tmp_path / "out")
    assert read_description(tmp_path / "out") == read_description(model)
    assert (tmp_path / "out" / "README.md").read_text() == (model / "README.md").read_text()
