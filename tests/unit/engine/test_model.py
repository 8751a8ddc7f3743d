"""A model alone, without a set, predicts as the run did that trained it."""

from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.fitting import Set, run_of
from usseg_ray.core.errors import UserError
from usseg_ray.engine.model import Model, build_model
from usseg_ray.methods import get
from usseg_ray.scoring.protocols import PLAIN

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


@pytest.mark.parametrize("method", ["acseg", "kmeans"])
def test_a_loaded_model_predicts_as_its_run(prepared: Set, tmp_path: Path, method: str) -> None:
    run, place = run_of(prepared, method)
    run.fit()
    assert place.state is not None
    place.state.save(tmp_path)
    model = build_model(tiny.config(method, seed=7), get(method), CPU)
    images = next(iter(run.reader.labelled("val", 4))).images

    def maps(of: Model) -> torch.Tensor:
        return of.predictor().predict(images).label_maps((tiny.SIDE, tiny.SIDE))[PLAIN]

    model.method.eval()
    untrained = maps(model)
    model.load(tmp_path)
    assert torch.equal(maps(model), maps(run))
    assert not torch.equal(untrained, maps(run))


def test_without_clusters_there_is_no_model() -> None:
    with pytest.raises(UserError, match="num_clusters is not set"):
        build_model(tiny.config(num_clusters=None), get("acseg"), CPU)
