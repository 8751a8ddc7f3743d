from pathlib import Path

import pytest
import torch

from usseg_ray.core.config import ResourceConfig
from usseg_ray.core.errors import UserError
from usseg_ray.trials import worker
from usseg_ray.trials.job import Job
from usseg_ray.trials.trainer import TRIAL_MEMORY_BYTES, fit_trial, trial_resources
from usseg_ray.trials.trial import BATCH_SIZE, noted_batch_size


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
    settings = {BATCH_SIZE: batch_size, "resources.num_workers": workers}
    return Job("acseg", settings, "/data", "cpu", "")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that were tried; more than 8 images ask for more memory than there is."""
    tried: list[int] = []

    def train_here(given: Job, folder: str) -> None:
        tried.append(given.settings[BATCH_SIZE])
        if tried[-1] > 8:
            torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(worker, "train_here", train_here)
    return tried


def test_out_of_memory_halves_the_batch_once(tmp_path: Path, sizes: list[int]) -> None:
    fit_trial(job(16), str(tmp_path / "trial_000"))
    assert sizes == [16, 8]
    assert noted_batch_size(tmp_path / "trial_000") == 8
    # A new process goes on where the first one ended.
    fit_trial(job(16), str(tmp_path / "trial_000"))
    assert sizes == [16, 8, 8]


def test_it_fails_where_half_is_still_too_much(tmp_path: Path, sizes: list[int]) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fit_trial(job(64), str(tmp_path))
    assert sizes == [64, 32]


def test_what_fits_is_not_touched(tmp_path: Path, sizes: list[int]) -> None:
    fit_trial(job(8), str(tmp_path))
    assert sizes == [8]
    assert noted_batch_size(tmp_path) is None


def test_other_failures_are_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def train_here(given: Job, folder: str) -> None:
        tried.append(given)
        raise UserError("no such file")

    monkeypatch.setattr(worker, "train_here", train_here)
    with pytest.raises(UserError, match="no such file"):
        fit_trial(job(16), str(tmp_path))
    assert len(tried) == 1
