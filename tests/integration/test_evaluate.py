"""`evaluate` on a trial of a real run: any split, the same numbers twice, errors that help."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.integration.commands import Ended, apart, here
from tests.ledgers import lay_store

pytestmark = pytest.mark.ray

SMALL = {
    "backbone.name": "textons",
    "data.train_size": 48,
    "data.eval_size": 48,
    "train.epochs": 1,
    "train.steps_per_epoch": 3,
    "train.batch_size": 8,
    "method.num_blocks": 1,
    "method.num_heads": 3,
    "num_clusters": 12,
    # Stored features are rounded, and `evaluate` computes them.
    "resources.features": "recompute",
}


Command = Callable[..., Ended]


@pytest.fixture
def run(place: Path) -> Command:
    """Runs a command in this process, beside the run unless told."""
    return partial(here, folder=place)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, scenes: Path) -> Path:
    """A folder in which one ACSeg run was made, `runs/small`."""
    folder = tmp_path_factory.mktemp("evaluate")
    lay_store(folder / "mlflow.db")
    sets = [part for k, v in SMALL.items() for part in ("--set", f"{k}={v}")]
    options = ("--method", "acseg", "--data", str(scenes), "--out", "runs/small")
    done = here("train", *options, *sets, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_test_split_scores_as_it_did_and_twice_the_same(place: Path) -> None:
    first, again = (command("evaluate", "small", folder=place) for command in (apart, here))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == again.stdout
    sweep = place / "runs" / "small"
    final = json.loads((sweep / "final.json").read_text())["trial_000-seed0"]
    (folder,) = (sweep / "trial_000" / "evaluations").iterdir()
    found = json.loads((folder / "scores.json").read_text())
    # One epoch: the last is the one that labels would pick, too.
    assert final.pop("label_selected_epoch") == 1
    assert final.pop("label_selected_miou") == final["unsup_miou"]
    assert final.pop("label_selected_acc") == final["unsup_acc"]
    assert found["metrics"] == final
    assert final["linear_miou"] > final["unsup_miou"]
    assert folder.name.endswith("-test-centre-crop")
    assert " test, centre-crop: centre square at short side 48, bilinear" in found["protocol"]
    assert "many_to_one_miou" in first.stdout
    assert "boundary_f" in first.stdout
    assert "unsup_miou of linear (supervised)" in first.stdout
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures == {"mosaic.png", "confusion.png", "per_class.png", "clusters.png"}


def test_refinements_have_columns_of_their_own_and_repeat(place: Path, run: Command) -> None:
    options = ("--refine", "flip,crf,flip+crf")
    first, again = (run("evaluate", "small", *options) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == again.stdout
    assert "flip+crf" in first.stdout
    (file,) = (place / "runs/small/trial_000/evaluations").glob("*-test-centre-crop/scores.json")
    metrics = json.loads(file.read_text())["metrics"]
    for name in ("unsup_miou", "unsup_acc", "boundary_f", "linear_miou"):
        values = [metrics[f"{prefix}{name}"] for prefix in ("", "flip.", "crf.", "flip_crf.")]
        assert all(0 <= value <= 100 for value in values)
        # Textons see a mirror image as the image, a CRF changes what anybody sees.
        assert values[0] != values[2]
    assert json.loads(file.read_text())["crf"] in ("exact", "lattice")


def test_whole_images_are_scored_by_their_own_protocol(place: Path, run: Command) -> None:
    done = run("evaluate", "small", "--protocol", "full-resolution")
    assert done.returncode == 0, done.stderr
    assert "full-resolution: whole images at short side 48" in " ".join(done.stdout.split())
    assert "sliding" in done.stdout
    # Floors of the same protocol, since the sweep had another.
    assert "unsup_miou of position (floor)" in done.stdout
    assert "linear (supervised)" not in done.stdout


def test_a_report_has_each_protocol_in_a_table_of_its_own(place: Path, run: Command) -> None:
    scored = run("evaluate", "small", "--protocol", "over-clustered")
    assert scored.returncode == 0, scored.stderr
    mixed = run("report", "small", "--format", "json")
    assert mixed.returncode == 0, mixed.stderr
    captions = [table["caption"] for table in json.loads(mixed.stdout)["tables"]]
    protocols = [caption.partition(", ")[2].partition(":")[0] for caption in captions]
    assert {"centre-crop", "over-clustered"} <= set(protocols)
    assert len(set(captions)) == len(captions)
    one = run("report", "small", "--protocol", "over-clustered", "--format", "json")
    (found,) = json.loads(one.stdout)["tables"]
    assert "over-clustered" in found["caption"]
    names = [row["name"] for row in found["rows"]]
    assert sorted(names) == ["colour\n(floor)", "position\n(floor)", "trial_000\nacseg K=12"]
    scores = [row["unsup_miou"] for row in found["rows"]]
    assert scores == sorted(scores, reverse=True)
    table = run("report", "small", "--protocol", "over-clustered", "--format", "md")
    assert re.search(r"\| \d \| trial_000 acseg K=\d+ \|", table.stdout)
    nothing = run("report", "small", "--protocol", "nothing")
    assert nothing.returncode == 2
    assert "no scores under 'nothing'" in " ".join(nothing.stderr.split())


def test_a_moved_sweep_is_scored_on_another_split(
    place: Path, run: Command, tmp_path: Path, scenes: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(place / "runs" / "small", moved)
    record = moved / "trial_000" / "trial.json"
    settings = json.loads(record.read_text())
    del settings["sha256"]
    settings["checkpoint"] = settings["checkpoint"].replace(str(place), "/nowhere")
    record.write_text(json.dumps(settings))
    done = run("evaluate", str(moved / "trial_000"), "--split", "val", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = moved.glob("trial_000/evaluations/*-val-centre-crop/scores.json")
    assert json.loads(file.read_text())["metrics"]["evaluated_images"] == 13
    again = run("evaluate", str(moved), "--data", str(scenes), folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "unsup_miou of linear (supervised)" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smal",), "; the latest are small."),
        (("small", "--split", "tests"), "has no split 'tests'; it has train, val, test"),
        pytest.param(
            ("small", "--device", "cuda"),
            "--device cuda: PyTorch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
        (("small", "--device", "tpu"), "--device tpu: one of auto, cpu and cuda"),
        (("small", "--data", "nothing"), "python -m usseg_ray.prepare --source IMAGES"),
        (("runs",), "no trial with a score here"),
        (("small", "--protocol", "stego"), "'stego'; did you mean 'stego-320'?"),
        (("small", "--protocol", "voc-21"), "voc-21 is for 21 classes, and the data has 10"),
        (("small", "--refine", "flop"), "a combination of flip, sliding, anyup, guided, crf"),
        (("small", "--refine", "sliding"), "there is nothing to slide over"),
    ],
)
def test_what_cannot_be_scored_ends_with_code_2(
    run: Command, arguments: tuple[str, ...], message: str
) -> None:
    done = run("evaluate", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
