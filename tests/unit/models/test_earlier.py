"""What 0.2.0 left: its models open, and its runs become models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import fitting, tiny
from tests.earlier import earlier_trial
from usseg_ray.core.config import flatten
from usseg_ray.core.records import DamagedError
from usseg_ray.models.earlier import SETTINGS_FILE, best_trial, convert_trial, is_earlier
from usseg_ray.models.folder import read_model
from usseg_ray.models.segmenter import Segmenter

IMAGE = tiny.picture(5)[0]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    context = fitting.fitted((str(tmp_path / "set"), tiny.write(tmp_path / "set")), "kmeans")
    assert context.state is not None
    context.state.save(tmp_path / "state")
    return tmp_path / "state"


def test_a_model_beside_its_settings_opens(checkpoint: Path) -> None:
    assert not is_earlier(checkpoint)
    about = {"method": "kmeans", "settings": flatten(tiny.config("kmeans"))}
    (checkpoint / SETTINGS_FILE).write_text(json.dumps(about))
    assert is_earlier(checkpoint)
    opened = Segmenter.open(checkpoint, torch.device("cpu"))
    assert opened.num_clusters == len(opened.names) == 3
    assert opened.segment(IMAGE).mask.shape == (32, 32)
    (checkpoint / SETTINGS_FILE).write_text('{"method": "kmeans"}')
    with pytest.raises(DamagedError, match=r"settings\.json is damaged"):
        Segmenter.open(checkpoint)


def test_a_trial_becomes_a_model(checkpoint: Path, tmp_path: Path) -> None:
    settings = flatten(tiny.config("kmeans"))
    worse = earlier_trial(tmp_path / "run" / "trial_000", "kmeans", settings, checkpoint, 10.0)
    better = earlier_trial(tmp_path / "run" / "trial_001", "kmeans", settings, checkpoint, 20.0)
    (tmp_path / "run" / "trial_002").mkdir()
    assert best_trial(tmp_path / "run") == better
    model = convert_trial(better, tmp_path / "model")
    assert model == tmp_path / "model"
    about, state = read_model(model)
    assert about.num_clusters == 3
    assert about.config["train.batch_size"] == 4
    centroids = Segmenter.open(model, torch.device("cpu")).model.method.state_dict()["centroids"]
    assert np.array_equal(centroids.numpy(), state["centroids"].numpy())
    (worse / "trial.json").write_text("{}")
    with pytest.raises(DamagedError, match=r"trial\.json is damaged"):
        best_trial(tmp_path / "run")


def test_a_folder_without_a_state_is_no_trial(tmp_path: Path) -> None:
    assert convert_trial(tmp_path, tmp_path / "model") is None
    assert best_trial(tmp_path) is None
