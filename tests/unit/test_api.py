"""`import usseg_ray`: quick, and with what it offers."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import usseg_ray
from tests import tiny
from tests.conftest import PROJECT
from tests.unit.models.conftest import kept
from usseg_ray.core.errors import UserError
from usseg_ray.models.names import Names

PROGRAM = """
import sys, time
start = time.process_time()
import usseg_ray
print(time.process_time() - start)
assert not {"torch", "ray", "mlflow", "numpy", "pydantic"} & set(sys.modules)
assert callable(usseg_ray.load)
assert not {"torch", "ray", "mlflow"} & set(sys.modules)
"""


def test_importing_is_quick_and_loads_nothing() -> None:
    took = min(
        float(subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)) for _ in range(3)
    )
    assert took < 0.1


def test_a_model_is_loaded_and_segments(tmp_path: Path) -> None:
    model = usseg_ray.load(kept(tmp_path, "kmeans"), device="cpu")
    result = model.predict(tiny.picture(5)[0])
    assert result.mask.shape == (32, 32)
    assert 1 < len(np.unique(result.mask)) <= 3


def test_the_guide_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(tmp_path / "runs" / "dunes", "kmeans")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "beach 1.jpg").write_bytes(tiny.png(tiny.picture(5)[0]))
    monkeypatch.chdir(tmp_path)
    text = (PROJECT / "docs" / "models.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(program, {})
    assert (tmp_path / "beach 1.png").is_file()
    assert re.fullmatch(r"beach 1\.jpg cluster \d\n", capsys.readouterr().out)
    (named,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "names.yaml").write_text(named, "utf-8")
    assert Names.read(tmp_path / "names.yaml").final.tolist() == [0, 0, 255]


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="lost: no such folder, nor a run"):
        usseg_ray.load("lost")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        getattr(usseg_ray, "lode")  # noqa: B009 (mypy knows as well)
