"""Published tables on miniatures of the published sets and small networks of random weights."""

import csv
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.integration.commands import here
from tests.trees import plant
from usseg_ray.prepare.write import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SHORT = ("train.epochs=1", "train.steps_per_epoch=1", "train.batch_size=2")
SMALL = ("train.eval_batch_size=2", "method.neighbours=1", "data.train_size=32")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def prepared(place: Path, name: str) -> None:
    prepare(plant(place / name, name), place / "data" / name, dataset=name)


def network(place: Path, name: str) -> Path:
    """One block of a ViT, of random weights, under the name that publications had it by."""
    torch.manual_seed(0)
    save_file(timm.create_model(name, depth=1).state_dict(), place / "vit.safetensors")
    file = place / "vit.yaml"
    file.write_text(f"name: {name}\nweights: vit.safetensors\ntimm_args: {{depth: 1}}\n")
    return file


def options(*assigned: str) -> list[str]:
    return [word for one in assigned for word in ("--set", one)]


def test_a_table_is_run_and_stands_beside_what_is_published(place: Path) -> None:
    prepared(place, "cityscapes27")
    vit = network(place, "vit_small_patch16_224.dino")
    asked = ("cityscapes27", "--methods", "kmeans,stego", "--backbone", vit)
    done = here("reproduce", *asked, "--out", "t", *options(*SHORT, *SMALL), folder=place)
    assert done.returncode == 0, done.stderr
    assert "2 runs: about" in done.stdout
    assert done.stdout.index("2 runs: about") < done.stdout.index("trial_000 finished")
    assert "reproduce cityscapes27" not in done.stdout
    (table,) = json.loads((place / "t" / "table.json").read_text())["tables"]
    ours = [row for row in table["rows"] if row["kind"] == ""]
    assert [row["name"] for row in ours] == ["kmeans", "stego"]
    for row in ours:
        assert row["backbone"] == "ViT-S/16"
        assert {"unsup_miou", "flip_crf.unsup_miou"} <= set(row)
        assert row["protocol"].startswith("cityscapes27 test, stego-320")
    assert "train.epochs=1" in ours[0]["note"]
    assert "method.neighbours=1" not in ours[0]["note"]
    rows = list(csv.DictReader((place / "t" / "table.csv").read_text().splitlines()))
    assert {row["kind"] for row in rows} == {"", "published"}
    assert "| 21.0 |" in (place / "t" / "table.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in (place / "t").rglob("scores.json")}
    again = here("reproduce", "--resume", "t", folder=place)
    assert again.returncode == 0, again.stderr
    assert "finished" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("data", "method", "vit", "published"),
    [
        ("cocostuff27", "cause-mlp", "vit_small_patch16_224.dino", 25.9),
        ("potsdam3", "kmeans", "vit_small_patch14_dinov2.lvd142m", 61.0),
    ],
)
def test_a_difference_is_to_the_number_of_that_network(
    place: Path, data: str, method: str, vit: str, published: float
) -> None:
    prepared(place, data)
    sizes = () if method == "kmeans" else (*SHORT, "data.train_size=32", "method.num_codes=4")
    seeds = ("--seeds", "2" if method == "kmeans" else "1")
    asked = (data, "--methods", method, "--backbone", network(place, vit), *seeds, "--out", "t")
    done = here("reproduce", *asked, *options(*sizes), folder=place)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads((place / "t" / "table.json").read_text())["tables"]
    (row,) = (row for row in table["rows"] if row["kind"] == "")
    assert row["published_miou"] == published
    assert f"{row['seeds']:.0f}" == seeds[1]
    assert ("flip_crf.unsup_miou_deviation" in row) == (method == "kmeans")
    refined = "flip_crf." if method == "cause-mlp" else ""
    assert row["difference"] == pytest.approx(row[f"{refined}unsup_miou"] - published)
