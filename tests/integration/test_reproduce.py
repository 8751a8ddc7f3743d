"""Published tables on miniatures of the published sets and small networks of random weights."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from tests.integration.commands import here
from tests.ledgers import lay_store
from tests.trees import plant
from usseg_ray.prepare.write import prepare
from usseg_ray.sweeps.request import Request
from usseg_ray.trials.tasks import BASELINES_FILE, load_baselines, save_baselines
from usseg_ray.trials.trial import load_trials

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

SHORT = ("train.epochs=1", "train.steps_per_epoch=1", "train.batch_size=2")
SMALL = ("train.eval_batch_size=2", "method.neighbours=1", "data.train_size=32")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    lay_store(tmp_path / "mlflow.db")
    return tmp_path


def prepared(place: Path, name: str) -> None:
    prepare(plant(place / name, name), place / "data" / name, dataset=name)


def network(place: Path, name: str) -> Path:
    """One thin block of a ViT, random weights, under the name that publications had it by."""
    torch.manual_seed(0)
    small = {"depth": 1, "embed_dim": 48}
    save_file(timm.create_model(name, **small).state_dict(), place / "vit.safetensors")
    file = place / "vit.yaml"
    told = {"name": name, "weights": "vit.safetensors", "timm_args": small}
    file.write_text(yaml.safe_dump(told))
    return file


def rows_of(place: Path) -> list[dict[str, Any]]:
    (table,) = json.loads((place / "t" / "table.json").read_text())["tables"]
    return [row for row in table["rows"] if row["kind"] == ""]


def options(*assigned: str) -> list[str]:
    return [word for one in assigned for word in ("--set", one)]


def test_a_table_is_run_and_stands_beside_what_is_published(place: Path) -> None:
    prepared(place, "cityscapes27")
    vit = network(place, "vit_small_patch16_224.dino")
    asked = ("cityscapes27", "--methods", "kmeans,stego", "--backbone", vit)
    done = here("reproduce", *asked, "--out", "t", *options(*SHORT, *SMALL), folder=place)
    assert done.returncode == 0, done.stderr
    assert "2 runs: about" in done.stdout
    assert "refiners counted" in done.stdout
    assert done.stdout.index("2 runs: about") < done.stdout.index("trial_000 finished")
    assert "reproduce cityscapes27" not in done.stdout
    ours = rows_of(place)
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


def test_a_difference_is_to_the_number_of_that_network(place: Path) -> None:
    prepared(place, "cocostuff27")
    vit = network(place, "vit_small_patch16_224.dino")
    asked = ("cocostuff27", "--methods", "cause-mlp", "--backbone", vit, "--out", "t")
    sizes = (*SHORT, "data.train_size=32", "method.num_codes=4")
    done = here("reproduce", *asked, *options(*sizes), folder=place)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(place)
    assert (row["published_miou"], row["seeds"]) == (25.9, 1)
    assert "flip_crf.unsup_miou_deviation" not in row
    assert row["difference"] == pytest.approx(row["flip_crf.unsup_miou"] - 25.9)


def test_a_run_that_failed_is_named_and_tried_again(place: Path) -> None:
    prepared(place, "cityscapes27")
    vit = network(place, "vit_small_patch16_224.dino")
    asked = ("cityscapes27", "--methods", "kmeans,stego", "--backbone", vit, "--out", "t")
    wild = options(*SHORT, *SMALL, "train.steps_per_epoch=2", "method.lr=1e37")
    done = here("reproduce", *asked, *wild, folder=place)
    assert done.returncode == 1, done.stderr
    (line,) = (
        one for one in done.stdout.splitlines() if one.startswith("stego-cityscapes-vit fai")
    )
    assert "NonFiniteLossError: loss is " in line
    assert (
        "1 of 2 runs failed. To try them again: python -m usseg_ray.reproduce --re" in done.stdout
    )
    kmeans, stego = rows_of(place)
    assert (kmeans.get("remark"), stego["remark"]) == (None, "failed")
    assert "NonFiniteLossError" in stego["note"]
    assert kmeans["unsup_miou"] > 0

    home = place / "t" / "stego-cityscapes-vit"
    # Those of one run are the other's, which none computes: such a score is none of theirs.
    known = load_baselines(place / "t" / "kmeans-cityscapes-vit")
    assert known is not None
    assert load_baselines(home) == known
    known["test"]["colour"] = -1.0
    save_baselines(known, place / "t" / "kmeans-cityscapes-vit")
    (home / BASELINES_FILE).unlink()
    again = here("reproduce", "--resume", "t", folder=place)
    assert again.returncode == 1, again.stderr
    assert "1 runs: about" in again.stdout
    assert "trial_000 failed" in again.stdout
    assert load_baselines(home) == known
    request = Request.load(home)
    sound = request.assigned | {"method.lr": 0.001}
    request.model_copy(update={"assigned": sound}).save(home)
    mended = here("reproduce", "--resume", "t", folder=place)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert {"unsup_miou", "flip_crf.unsup_miou"} <= set(rows_of(place)[1])


def test_of_two_seeds_the_one_that_failed_is_trained_again(place: Path) -> None:
    prepared(place, "potsdam3")
    vit = network(place, "vit_small_patch14_dinov2.lvd142m")
    asked = ("potsdam3", "--methods", "kmeans", "--backbone", vit, "--seeds", "2", "--out", "t")
    done = here("reproduce", *asked, folder=place)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(place)
    assert (row["published_miou"], row["seeds"]) == (61.0, 2)
    assert "flip_crf.unsup_miou_deviation" in row
    assert row["difference"] == pytest.approx(row["unsup_miou"] - 61.0)

    home = place / "t" / "kmeans-potsdam3-vit" / "finalists"
    (record,) = load_trials(home)
    replace(record, status="FAILED", reason="the machine was lost").save(home)
    again = here("reproduce", "--resume", "t", folder=place)
    assert again.returncode == 0, again.stdout
    assert "1 runs: about" in again.stdout
    (record,) = load_trials(home)
    assert record.status == "FINISHED"
    assert rows_of(place)[0]["seeds"] == 2
