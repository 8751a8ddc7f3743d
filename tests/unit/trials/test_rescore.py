"""Which trial is scored, under what, and why not; tests/integration scores trained ones."""

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from usseg_ray.core.config import flatten
from usseg_ray.core.errors import UserError
from usseg_ray.trials.rescore import ScoringRequest, evaluate_trial, find_trial
from usseg_ray.trials.trial import Trial

GONE = "/nowhere/train/epoch_0002"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    tiny.write(folder)
    return folder


def sweep_of(folder: Path, root: Path, *scores: float | None, kept: str | None = GONE) -> Path:
    """Writes the records of trials that ended, and whose checkpoints are gone."""
    settings = flatten(tiny.config("kmeans", data__name=str(root)))
    for index, score in enumerate(scores):
        metrics = {} if score is None else {"unsup_miou": score}
        Trial(index, "kmeans", {}, settings, 1, "FINISHED", metrics, kept).save(folder)
    return folder


def scored(place: Path, **asked: Any) -> None:
    evaluate_trial(str(place), ScoringRequest(**{"device": "cpu"} | asked), kept_at=lambda _: "")


def test_of_a_sweep_the_best_trial_is_taken(tmp_path: Path, root: Path) -> None:
    sweep = sweep_of(tmp_path, root, 20.0, 30.0, 25.0)
    assert find_trial(str(sweep)) == sweep / "trial_001"
    assert find_trial(str(sweep / "trial_002")) == sweep / "trial_002"


def test_a_sweep_without_a_score_has_none(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match=r"no trial with a score here\. Name a trial's folder"):
        find_trial(str(sweep_of(tmp_path, root, None)))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"split": "tests"}, "no split 'tests'; it has train, val, test"),
        ({"data": "nothing"}, "python -m usseg_ray.prepare"),
        ({"protocol": "voc-21"}, "voc-21 is for 21 classes, and the data has 3"),
        ({"device": "tpu"}, "--device tpu: one of auto, cpu and cuda"),
        ({}, f"its checkpoint {GONE} is gone"),
    ],
)
def test_what_cannot_be_scored_is_said(
    tmp_path: Path, root: Path, asked: dict[str, Any], says: str
) -> None:
    sweep = sweep_of(tmp_path, root, 20.0)
    with pytest.raises(UserError, match=says):
        scored(sweep, **asked)
    assert not list(sweep.glob("trial_000/evaluations/**/scores.json"))


def test_a_copied_trial_is_scored_by_its_own_checkpoint(tmp_path: Path, root: Path) -> None:
    there, copy = tmp_path / "sweep" / "trial_000", tmp_path / "copy"
    kept = there / "train" / "epoch_0002"
    for folder in (kept, copy / "trial_000" / "train" / "epoch_0002"):
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"no checkpoint")
    sweep_of(copy, root, 20.0, kept=str(kept))
    with pytest.raises(UserError, match=rf"{copy}/.*checkpoint\.pt is damaged"):
        scored(copy)


def test_a_trial_without_a_checkpoint_says_how_it_ended(tmp_path: Path, root: Path) -> None:
    sweep = sweep_of(tmp_path, root, 20.0, kept=None)
    with pytest.raises(UserError, match=r"the trial has no checkpoint \(FINISHED\)"):
        scored(sweep / "trial_000")


def test_data_without_labels_has_nothing_to_score_against(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    tiny.write(bare, labelled=False)
    sweep = sweep_of(tmp_path / "sweep", bare, 20.0)
    with pytest.raises(UserError, match="split 'test' of 'tiny' has no labels to score against"):
        scored(sweep)
