"""A trial's model in the store: loaded by MLflow alone, it segments as the trial did."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from tests import scenes
from tests.earlier import earlier_model
from tests.ledgers import opened, runs
from usseg_ray import methods
from usseg_ray.core.config import build_config, flatten
from usseg_ray.core.errors import UserError
from usseg_ray.data import synthetic
from usseg_ray.data.manifest import load_manifest
from usseg_ray.engine.checkpoint import STATE_FILE
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import assemble
from usseg_ray.models.folder import describe_run
from usseg_ray.models.folder import save_model as keep
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.tracking.model import find_model_anywhere, save_mlflow_model

SETTINGS = {
    "backbone.name": "textons",
    "data.train_size": 48,
    "data.eval_size": 64,
    "train.epochs": 1,
    "train.steps_per_epoch": 2,
    "train.batch_size": 4,
    "num_clusters": 5,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Settings of a short STEGO run, and the folder of its checkpoint and of its model."""
    folder, data = (tmp_path_factory.mktemp(name) for name in ("trained", "scenes"))
    scenes.write(data)
    method = methods.get("stego")
    config = build_config(method.Config, [SETTINGS | {"data.name": str(data)}])
    context = PlainContext(torch.device("cpu"), [])
    run = assemble(config, method, OpenSet(str(data), load_manifest(str(data))), context)
    run.fit()
    assert context.state is not None
    context.state.save(folder)
    about = describe_run("stego", flatten(config))
    keep(folder / "kept", about, context.state.method)
    return flatten(config), folder


@pytest.mark.usefixtures("store")
def test_a_logged_model_segments_images_of_any_size(
    folder: Path, trained: tuple[dict[str, Any], Path]
) -> None:
    save_mlflow_model(trained[1] / "kept", folder / "model")
    for _ in range(2):
        with opened() as ledger:
            ledger.open_trial("t", {}, {})
            ledger.log_model("t", folder / "model", register="scenes")
    client = MlflowClient(ledger.uri)
    version = client.get_model_version_by_alias("scenes", "champion")
    assert version.run_id == runs(folder)["t"].info.run_id
    assert len(client.search_model_versions("name = 'scenes'")) == 1
    mlflow.set_tracking_uri(ledger.uri)  # as the user of a model does
    try:
        model = mlflow.pyfunc.load_model("models:/scenes@champion")
    finally:
        mlflow.set_tracking_uri(None)
    image, _ = synthetic.scene(7, "val", 0)
    maps = model.predict(image[None])
    assert maps.shape == (1, *image.shape[:2])
    assert maps.dtype == np.int64
    assert 1 < len(np.unique(maps)) <= 5
    assert model.predict(np.stack([image[:40, :70]] * 2)).shape == (2, 40, 70)
    assert model.metadata.signature is not None
    example = model.input_example
    assert example.shape[-1] == 3
    assert model.predict(example).shape == example.shape[:-1]


@pytest.mark.usefixtures("store")
def test_a_registered_model_is_found(folder: Path, trained: tuple[dict[str, Any], Path]) -> None:
    save_mlflow_model(trained[1] / "kept", folder / "model")
    with opened() as ledger:
        ledger.open_trial("t", {}, {})
        ledger.log_model("t", folder / "model", register="found")
    image = synthetic.scene(7, "val", 0)[0]
    expected = Segmenter.open(find_model_anywhere(str(trained[1] / "kept"))).segment(image).mask
    found = find_model_anywhere("models:/found@champion", ledger.uri)
    assert np.array_equal(Segmenter.open(found).segment(image).mask, expected)
    for missing in ("models:/found@nobody", "models:/lost@champion", "models:/found/7"):
        with pytest.raises(UserError, match=missing):
            find_model_anywhere(missing, ledger.uri)


def test_a_model_of_earlier_versions_still_opens(
    folder: Path, trained: tuple[dict[str, Any], Path]
) -> None:
    settings, checkpoint = trained
    image = synthetic.scene(7, "val", 0)[0][None]
    save_mlflow_model(checkpoint / "kept", folder / "model")
    maps = mlflow.pyfunc.load_model(str(folder / "model")).predict(image)
    earlier = earlier_model(folder / "earlier", "stego", settings, checkpoint)
    assert np.array_equal(mlflow.pyfunc.load_model(str(earlier)).predict(image), maps)
    (file,) = earlier.rglob(STATE_FILE)
    kept = torch.load(file, weights_only=True)
    # As 0.1.0 wrote it.
    torch.save({"method": kept["method"]}, file)
    assert np.array_equal(mlflow.pyfunc.load_model(str(earlier)).predict(image), maps)
    # As this version writes it, but of one to come.
    torch.save(kept | {"version": 99}, file)
    with pytest.raises(UserError, match="is a checkpoint of version 99"):
        mlflow.pyfunc.load_model(str(earlier))


@pytest.mark.parametrize("store", ["a database", "a server"])
def test_the_latest_sweep_has_the_champion(
    folder: Path, server: str, trained: tuple[dict[str, Any], Path], store: str
) -> None:
    # Neither is the store that MLflow would take by itself, ./mlflow.db.
    uri = server if store == "a server" else f"sqlite:///{folder}/elsewhere/mlflow.db"
    save_mlflow_model(trained[1] / "kept", folder / "model")
    champions = []
    for sweep in ("earlier", "later", "earlier"):
        with opened(uri, sweep=sweep) as ledger:
            ledger.open_trial(f"{sweep}-best", {}, {})
            ledger.log_model(f"{sweep}-best", folder / "model", register="champions")
        client = MlflowClient(uri)
        champions.append(client.get_model_version_by_alias("champions", "champion").run_id)
    # Other tests have runs on the server, too.
    found = runs(folder, uri, "earlier") | runs(folder, uri, "later")
    order = ("earlier-best", "later-best", "later-best")
    assert champions == [found[name].info.run_id for name in order]
    assert len(client.search_model_versions("name = 'champions'")) == 2
    mlflow.set_tracking_uri(uri)
    try:
        assert mlflow.pyfunc.load_model("models:/champions@champion").metadata.signature
    finally:
        mlflow.set_tracking_uri(None)
