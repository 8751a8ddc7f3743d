"""What is exported, run by software that we did not write, as the docs say."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import usseg_ray
from tests import tiny
from tests.conftest import PROJECT
from tests.integration.commands import here
from tests.unit.models.conftest import kept

PROGRAMS = re.findall(
    r"```python\n(.*?)```", (PROJECT / "docs" / "export.md").read_text("utf-8"), re.DOTALL
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a run, the names of its clusters, and a photograph."""
    folder = tmp_path_factory.mktemp("place")
    kept(folder / "runs" / "dunes", "kmeans")
    (folder / "names.yaml").write_text("0: {name: sand}\n1: {merge_into: 0}\n2: {ignore: true}\n")
    assert here("name", "names.yaml", "--model", "dunes", folder=folder).returncode == 0
    (folder / "photos").mkdir()
    (folder / "photos" / "beach 1.jpg").write_bytes(tiny.png(tiny.picture(5)[0]))
    return folder


def test_a_graph_is_checked_and_runs_by_the_docs_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", "dunes", "--format", "onnx", "--out", "dunes.onnx")
    done = here("export", *asked, "--check", "--images", "photos", folder=place)
    assert (done.returncode, done.stderr) == (0, "")
    said = re.search(r"1 image of photos: largest difference (\S+), (\S+) times", done.stdout)
    assert said is not None
    assert float(said[1]) < 1e-5
    assert float(said[2]) > 0
    assert "tiles of 32 x 32 pixels" in done.stdout
    monkeypatch.chdir(place)
    found: dict[str, np.ndarray] = {}
    exec(PROGRAMS[0], found)
    with Image.open("photos/beach 1.jpg") as photo:
        expected = usseg_ray.load("dunes", device="cpu").predict(photo)
    assert np.array_equal(found["mask"], expected.mask)
    assert np.allclose(found["confidence"], expected.confidence, atol=1e-5)
    assert {0, 255} >= set(np.unique(found["mask"]).tolist())
    assert re.search(r"^(sand|cluster [12]) 0\.\d+$", capsys.readouterr().out, re.MULTILINE)
    again = here("export", *asked, folder=place)
    assert again.returncode == 2
    assert "something is there" in again.stderr


def test_folders_are_written_from_python(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    image = tiny.picture(5)[0]
    expected = usseg_ray.load("dunes", device="cpu").predict(image).mask
    usseg_ray.export("dunes", "dunes_mlflow", format="pyfunc")
    exec(PROGRAMS[1], {})
    assert capsys.readouterr().out == "(1, 240, 320) sand\n"
    usseg_ray.export("dunes", "dunes_whole", format="safetensors")
    assert np.array_equal(usseg_ray.load("dunes_whole").predict(image).mask, expected)
