"""`evaluate` on a trial of a real run: any split, the same numbers twice, errors that help."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
}


def run(command: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"usseg_ray.{command}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """A folder in which one ACSeg run was made, `runs/small`."""
    folder = tmp_path_factory.mktemp("evaluate")
    sets = [part for k, v in SMALL.items() for part in ("--set", f"{k}={v}")]
    options = ("--method", "acseg", "--data", str(scenes), "--out", "runs/small")
    done = run("train", *options, *sets, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_test_split_scores_as_it_did_and_twice_the_same(place: Path) -> None:
    first, again = (run("evaluate", "small", folder=place) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == again.stdout
    sweep = place / "runs" / "small"
    final = json.loads((sweep / "final.json").read_text())["acseg"]["metrics"]
    (folder,) = (sweep / "trial_000" / "evaluations").iterdir()
    found = json.loads((folder / "scores.json").read_text())
    assert found["metrics"] == final
    assert folder.name.endswith("-test")
    assert " test, short side 48" in found["protocol"]
    assert "many_to_one_miou" in first.stdout
    assert "unsup_miou of position (floor)" in first.stdout
    assert (folder / "pictures" / "mosaic.png").is_file()


def test_a_moved_sweep_is_scored_on_another_split(
    place: Path, tmp_path: Path, scenes: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(place / "runs" / "small", moved)
    record = moved / "trial_000" / "trial.json"
    settings = json.loads(record.read_text())
    settings["checkpoint"] = settings["checkpoint"].replace(str(place), "/nowhere")
    record.write_text(json.dumps(settings))
    done = run("evaluate", str(moved / "trial_000"), "--split", "val", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = moved.glob("trial_000/evaluations/*-val/scores.json")
    assert json.loads(file.read_text())["metrics"]["evaluated_images"] == 13
    again = run("evaluate", str(moved), "--data", str(scenes), folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "No baselines" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smal",), "; the latest are small."),
        (("small", "--split", "tests"), "has no split 'tests'; it has train, val, test"),
        pytest.param(
            ("small", "--device", "cuda"),
            "--device cuda: this machine has no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
        (("small", "--device", "tpu"), "--device tpu: one of auto, cpu and cuda"),
        (("small", "--data", "nothing"), "python -m usseg_ray.prepare --source IMAGES"),
        (("runs",), "no trial with a score here"),
    ],
)
def test_what_cannot_be_scored_ends_with_code_2(
    place: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("evaluate", *arguments, folder=place)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
