"""A trained model, small and of scenes that tests make."""

from pathlib import Path

import pytest

from tests import fitting, tiny
from usseg_ray.models.description import ModelScores
from usseg_ray.models.folder import describe, save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A k-means model of the tiny set."""
    return kept(tmp_path_factory.mktemp("kept"), "kmeans")


def kept(folder: Path, method: str, weights: Path | None = None, **settings: object) -> Path:
    """Trains a method on the tiny set and keeps its model, with its backbone's weights."""
    if weights is not None:
        settings["backbone__weights"] = str(weights)
    manifest = tiny.write(folder / "elsewhere")
    place = str(folder / "elsewhere")
    run, context = fitting.run_of((place, manifest), method, data__name=place, **settings)
    run.fit()
    scores = ModelScores(protocol="tiny val", values={"unsup_miou": 90.0}, floors={"colour": 50.0})
    about = describe(method, run.config, run.featurise.backbone, manifest, scores)
    assert context.state is not None
    save_model(folder / "model", about, context.state.method, weights)
    return folder / "model"
