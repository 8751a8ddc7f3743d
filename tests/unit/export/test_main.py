"""`export`: what is refused is a line; what works is in tests/integration/test_export.py."""

from pathlib import Path

import pytest

from tests.integration.commands import here
from usseg_ray.export import graph
from usseg_ray.export.__main__ import app


def test_what_is_wrong_is_a_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.registered_commands
    lost = here("export", "--model", tmp_path / "lost", "--format", "onnx", "--out", tmp_path / "o")
    assert lost.returncode == 2
    assert "no such folder" in lost.stderr
    other = here("export", "--model", model, "--format", "tflite", "--out", tmp_path / "o")
    assert other.returncode == 2
    monkeypatch.setattr(graph, "find_spec", lambda _: None)
    bare = here("export", "--model", model, "--format", "onnx", "--out", tmp_path / "o")
    assert bare.returncode == 2
    assert bare.stderr == (
        "Error: ONNX needs packages that are missing (onnx, onnxscript): "
        'pip install "usseg-ray[onnx]".\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_said_with_what_it_holds(model: Path, tmp_path: Path) -> None:
    done = here("export", "--model", model, "--format", "safetensors", "--out", tmp_path / "o")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'o'}: kmeans, K = 3, on textons\n"
