"""A model is found by what its user knows of it."""

import shutil
from pathlib import Path

import pytest

from tests import fitting, tiny
from tests.earlier import earlier_model, earlier_trial
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError
from usseg_ray.models.find import find_model
from usseg_ray.models.segmenter import Segmenter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_a_run_and_its_name_lead_to_a_model(model: Path, folder: Path) -> None:
    shutil.copytree(model, folder / "runs" / "dunes" / "model")
    for place in (str(model), "dunes", "runs/dunes", str(folder / "runs" / "dunes" / "model")):
        assert (find_model(place) / "model.yaml").is_file()
    assert find_model("dunes") == Path("runs/dunes/model")


def test_a_run_of_earlier_versions_gets_a_model(folder: Path) -> None:
    context = fitting.fitted((str(folder / "set"), tiny.write(folder / "set")), "kmeans")
    assert context.state is not None
    context.state.save(folder / "state")
    settings = flatten(tiny.config("kmeans"))
    run = folder / "runs" / "old"
    for index, score in enumerate((10.0, 20.0)):
        earlier_trial(run / f"trial_{index:03d}", "kmeans", settings, folder / "state", score)
    assert find_model("old/trial_000") == Path("runs/old/trial_000/model")
    assert find_model("old") == Path("runs/old/model")
    assert Segmenter.open(find_model("old")).num_clusters == 3
    # A labelled run kept models of its finalists.
    shutil.rmtree(run / "model")
    finalist = run / "finalists" / "trial_001"
    earlier_model(finalist / "model", "kmeans", settings, folder / "state")
    found = find_model("old")
    assert found == Path("runs/old/finalists/trial_001/model/data/model")
    assert find_model(str(finalist)) == finalist / "model" / "data" / "model"
    assert Segmenter.open(found).num_clusters == 3


def test_what_is_not_there_is_said_with_what_is(model: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"lost: no such folder, nor a run in .* has no models"):
        find_model("lost")
    shutil.copytree(model, folder / "runs" / "dunes" / "model")
    with pytest.raises(UserError, match="the latest with models are dunes"):
        find_model("lost")
    (folder / "runs" / "bare").mkdir()
    with pytest.raises(UserError, match="neither a model nor a run that has trained one"):
        find_model("bare")
    with pytest.raises(UserError, match="expected hf://OWNER/NAME"):
        find_model("hf://alone")
