"""A model's folder: whole, free of pickles and of its machine, and refused where it is damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.models.description import MODEL_FILE, read_description, write_description
from usseg_ray.models.folder import WEIGHTS_FILE, describe, read_model, save_model


def test_a_folder_holds_no_pickle_and_no_place(model: Path) -> None:
    assert {MODEL_FILE, WEIGHTS_FILE} <= {path.name for path in model.iterdir()}
    assert not {path.suffix for path in model.iterdir()} & {".pt", ".pkl", ".bin"}
    assert str(model.parent) not in (model / MODEL_FILE).read_text()


def test_another_model_in_a_folder_is_replaced_whole(model: Path, tmp_path: Path) -> None:
    about, state = read_model(model)
    folder = tmp_path / "model"
    save_model(folder, about, state)
    (folder / "of the earlier one").touch()
    # Tensors that share memory are written apart.
    twice = dict.fromkeys(("a", "b"), torch.ones(3))
    save_model(folder, about, twice)
    assert not (folder / "of the earlier one").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {name: tensor.tolist() for name, tensor in read_model(folder)[1].items()} == {
        "a": [1, 1, 1],
        "b": [1, 1, 1],
    }


def test_damaged_weights_are_refused_in_a_line(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(DamagedError, match="not the weights that were written"):
        read_model(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(DamagedError, match=r"model\.safetensors is missing"):
        read_model(folder)


def test_a_model_sees_files_as_its_set_did(tmp_path: Path) -> None:
    scaling = Scaling.of([np.arange(101)] * 3, "16-bit", "the training images' values")
    sight = Sight(bands=("4", "red", "2"), scaling=scaling)
    manifest = tiny.write(tmp_path / "set").model_copy(update={"sight": sight})
    about = describe("colour", tiny.config("colour"), None, manifest)
    write_description(about, tmp_path)
    assert read_description(tmp_path).preprocessing.sight == sight
    assert "2 % and 98 % of the training images" in (tmp_path / MODEL_FILE).read_text()


def test_a_model_has_a_number_of_clusters() -> None:
    config = tiny.config("kmeans", num_clusters=None)
    with pytest.raises(UserError, match="num_clusters is not set"):
        describe("kmeans", config, None)
