"""`name`: what a person writes goes into the model, and what is wrong is a line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.integration.commands import here
from tests.unit.models.conftest import kept
from usseg_ray.models.description import read_description
from usseg_ray.models.names import Names
from usseg_ray.models.segmenter import Segmenter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(tmp_path_factory.mktemp("kept") / "dunes", "kmeans")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_names_are_printed_changed_and_used(model: Path, tmp_path: Path) -> None:
    printed = here("name", "--model", str(model), folder=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    before = read_description(model)
    (tmp_path / "all.yaml").write_text(printed.stdout)
    assert Names.read(tmp_path / "all.yaml") == before.names

    (tmp_path / "names.yaml").write_text("0: {name: 'größer [b]'}\n1: {merge_into: 0}\n")
    done = here("name", "names.yaml", "--model", str(model), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"2 of {before.num_clusters} clusters changed" in done.stdout
    assert "größer [b]" in done.stdout
    about = read_description(model)
    assert about == before.model_copy(update={"names": about.names})
    assert about.names.clusters[0].colour == before.names.clusters[0].colour
    assert "größer" in (model / "README.md").read_text()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    assert 1 not in Segmenter.open(model).segment(image).mask


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("99: {name: a}", "cluster 99: they are numbered 0 to"),
        ("0: {colour: red}", "0: colour"),
        ("0: {merge_into: 1}\n1: {merge_into: 0}", "merged round a loop"),
        ("[]", "expected lines such as"),
    ],
)
def test_what_is_wrong_changes_nothing(model: Path, tmp_path: Path, text: str, said: str) -> None:
    before = (model / "model.yaml").read_bytes()
    (tmp_path / "names.yaml").write_text(text)
    done = here("name", "names.yaml", "--model", str(model), folder=tmp_path)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert (model / "model.yaml").read_bytes() == before


def test_a_cluster_is_split_and_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(tiny.picture(number)[0]).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "names.yaml").write_text("0: {name: road, split: 2}\n1: {name: sky}\n")
    asked = ("name", "names.yaml", "--model", str(model))
    before = (model / "model.yaml").read_bytes()
    refused = here(*asked, folder=tmp_path)
    assert refused.returncode == 2
    assert "cluster 0 is to be split: give the photographs" in " ".join(refused.stderr.split())
    assert (model / "model.yaml").read_bytes() == before

    done = here(*asked, "--images", "photos", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3: road 2 has the others." in done.stdout
    assert f"usseg-ray look --model {model} --images " in done.stdout
    called = [one.name for one in read_description(model).names.clusters]
    assert called == ["road", "sky", "cluster 2", "road 2"]
    printed = here("name", "--model", str(model), folder=tmp_path).stdout
    assert "split" not in printed
    Segmenter.open(model).segment(tiny.picture(0)[0])


def test_a_model_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    done = here("name", "names.yaml", "--model", "models:/road@champion", folder=tmp_path)
    assert done.returncode == 2
    assert "a folder of this machine" in done.stderr


def test_names_of_another_model_are_taken_over(model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    (tmp_path / "names.yaml").write_text("0: {name: rock}\n1: {merge_into: 0}\n")
    here("name", "names.yaml", "--model", str(other), folder=tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(tiny.picture(number)[0]).save(tmp_path / "photos" / f"{number}.png")
    asked = ("name", "--model", str(model), "--names-of", str(other))
    done = here(*asked, "--images", "photos", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0: rock (was 0, overlap 1.00, margin " in done.stdout
    assert read_description(model).names == read_description(other).names

    before = (model / "model.yaml").read_bytes()
    for wrong in ((), ("names.yaml", "--images", "photos")):
        refused = here(*asked, *wrong, folder=tmp_path)
        assert refused.returncode == 2
        assert "--names-of takes --images, and no names.yaml" in refused.stderr
    assert (model / "model.yaml").read_bytes() == before
