from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny
from usseg_ray.core.config import ResourceConfig
from usseg_ray.core.errors import UserError
from usseg_ray.trials import trainer, worker
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import load_baselines
from usseg_ray.trials.trainer import (
    BASELINES,
    TRIAL_MEMORY_BYTES,
    run_trial,
    trial_resources,
)
from usseg_ray.trials.trial import noted_batch_size


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", {"CPU": 0.75}), ("cuda", {"CPU": 0.75, "GPU": 0.5})],
)
def test_a_trial_in_its_own_process_holds_what_a_worker_would(
    device: str, expected: dict[str, float]
) -> None:
    resources = ResourceConfig(num_workers=0, gpus_per_worker=0.5)
    assert trial_resources(resources, device) == expected


def test_a_trial_that_waits_for_its_workers_holds_memory_alone() -> None:
    resources = ResourceConfig(num_workers=2)
    assert trial_resources(resources, "cuda") == {"memory": TRIAL_MEMORY_BYTES}


def job(batch_size: int, workers: int = 0) -> Job:
    settings = {"train__batch_size": batch_size, "resources__num_workers": workers}
    return Job("acseg", tiny.config("acseg", **settings), "/data")


class Fitting:
    """Stands for the run of a job; more than 8 images ask for more memory than there is."""

    def __init__(self, given: Job, tried: list[int]) -> None:
        self.batch_size, self.tried = given.config.train.batch_size, tried

    def fit(self) -> None:
        self.tried.append(self.batch_size)
        if self.batch_size > 8:
            torch.empty(2**60, dtype=torch.uint8)


def fit(batch_size: int, folder: Path, name: str = "trial_000") -> None:
    run_trial({"trial": name, "job": job(batch_size), "sample": {}, "finals": ()}, str(folder))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that were tried."""
    tried: list[int] = []
    monkeypatch.setattr(worker, "run_here", lambda given, _: Fitting(given, tried))
    return tried


def test_out_of_memory_halves_the_batch_once(tmp_path: Path, sizes: list[int]) -> None:
    fit(16, tmp_path)
    assert sizes == [16, 8]
    assert noted_batch_size(tmp_path / "trial_000") == 8
    # A new process goes on where the first one ended.
    fit(16, tmp_path)
    assert sizes == [16, 8, 8]


def test_it_fails_where_half_is_still_too_much(tmp_path: Path, sizes: list[int]) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fit(64, tmp_path)
    assert sizes == [64, 32]


def test_a_shared_training_lies_in_the_sweeps_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def run_here(given: Job, _: Storage) -> Fitting:
        seen.append(given.shared)
        return Fitting(given, [])

    monkeypatch.setattr(worker, "run_here", run_here)
    for shared in ("", "abc"):
        own = replace(job(8), shared=shared)
        run_trial({"trial": "trial_000", "job": own, "sample": {}, "finals": ()}, str(tmp_path))
    assert seen == ["", f"{tmp_path}/trained/abc"]


def test_what_fits_is_not_touched(tmp_path: Path, sizes: list[int]) -> None:
    fit(8, tmp_path)
    assert sizes == [8]
    assert noted_batch_size(tmp_path / "trial_000") is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_that_trained_goes_on_with_test_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    given, scored = job(8, workers), list[FinalScoring]()
    finals = [FinalScoring(given, name, "there") for name in ("trial_000", "trial_001")]

    def score(asked: list[FinalScoring], place: str) -> None:
        assert place == str(tmp_path)
        scored.extend(asked)
        raise UserError("a test score that fails is no failure of the training")

    monkeypatch.setattr(trainer, "_run_of", lambda given, _: Fitting(given, []))
    monkeypatch.setattr(worker, "final_scores", score)
    asked = {"trial": "trial_001-seed3", "job": given, "sample": {}, "finals": finals}
    run_trial(asked, str(tmp_path))
    assert scored == ([] if workers else finals)


def test_a_finalist_lies_apart_from_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def run_of(given: Job, storage: Storage) -> Fitting:
        places.append(storage.folder.relative_to(tmp_path).as_posix())
        return Fitting(given, [])

    monkeypatch.setattr(trainer, "_run_of", run_of)
    for name in ("trial_000", "trial_000-seed3"):
        fit(8, tmp_path, name)
    assert places == ["trial_000", "finalists/trial_000-seed3"]


def test_a_trials_process_computes_baselines_and_says_that_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[dict[str, int]]()
    found = {"val": {"kmeans": 41.5}}
    monkeypatch.setattr(worker, "baselines", lambda _: found)
    monkeypatch.setattr("ray.tune.report", told.append)
    run_trial({"trial": BASELINES, "job": job(8)}, str(tmp_path))
    assert load_baselines(tmp_path) == found
    assert told == [{"baselines": 1}]


def test_other_failures_are_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def run_here(given: Job, storage: Storage) -> None:
        tried.append(given)
        raise UserError("no such file")

    monkeypatch.setattr(worker, "run_here", run_here)
    with pytest.raises(UserError, match="no such file"):
        fit(16, tmp_path)
    assert len(tried) == 1
