"""Each format appears whole or not at all, and options that do not fit are refused first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.export import formats
from usseg_ray.export.formats import Format, export
from usseg_ray.models.segmenter import Segmenter

IMAGE = tiny.picture(5)[0]


def test_a_folder_of_safetensors_segments_alike(
    model: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    done = export(str(model), tmp_path / "below" / "out", "safetensors")
    assert (done.format, done.compared) == ("safetensors", None)
    again = Segmenter.open(done.path, torch.device("cpu"))
    assert np.array_equal(again.segment(IMAGE).mask, segmenter.segment(IMAGE).mask)
    assert sorted(path.name for path in (tmp_path / "below").iterdir()) == ["out"]


def test_mlflow_loads_a_pyfunc(model: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    import mlflow

    done = export(str(model), tmp_path / "out", "pyfunc")
    loaded = mlflow.pyfunc.load_model(str(done.path))
    maps = loaded.predict(IMAGE[None])
    assert np.array_equal(maps[0], segmenter.segment(IMAGE).mask)
    assert loaded.metadata.signature is not None
    assert loaded.input_example.shape[-1] == 3
    told = loaded.metadata.metadata
    assert [name["name"] for name in told["names"]] == ["cluster 0", "cluster 1", "cluster 2"]
    assert told["palette"] == segmenter.names.palette[:3].tolist()
    assert told["ignored"] == 255
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("form", "options", "said"),
    [
        ("safetensors", {"check": True}, "--check runs a graph beside torch; safetensors is"),
        ("onnx", {"images": Path("photos")}, "--images is what --check looks at: give both"),
        ("onnx", {"images": Path("lost"), "check": True}, "--images lost: no such file or folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    model: Path, tmp_path: Path, form: Format, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        export(str(model), tmp_path / "out", form, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["onnx", "pyfunc", "safetensors"])
def test_what_is_there_stays(model: Path, tmp_path: Path, form: Format) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="something is there"):
        export(str(model), tmp_path / "out", form)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ("onnx", "compare_with_torch"),
        ("pyfunc", "save_mlflow_model"),
        ("safetensors", "write_folder"),
    ],
)
def test_an_end_half_way_leaves_nothing(
    model: Path,
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: Format,
    where: str,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "to_onnx", lambda _: content)
    monkeypatch.setattr(formats, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(str(model), tmp_path / "out", form, check=form == "onnx")
    assert list(tmp_path.iterdir()) == []
