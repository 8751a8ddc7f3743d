"""A training is named by all that it reads, and what it left is found by that name."""

from pathlib import Path

import pytest
import torch

from tests import tiny
from usseg_ray.engine.checkpoint import STATE_FILE, RunState
from usseg_ray.trials.job import Job
from usseg_ray.trials.trained import load_trained, save_trained, training_key

CPU = torch.device("cpu")


def job(method: str = "stego", root: str = "/data", **settings: object) -> Job:
    return Job(method, tiny.config(method, **settings), root)


def test_trials_that_differ_in_k_have_one_training() -> None:
    key = training_key(job(num_clusters=4))
    assert key
    assert key == training_key(job(num_clusters=9))
    assert key == training_key(job(num_clusters=9, method__context=0.5))
    others = [
        job(seed=1),
        job(method__lr=1e-4),
        job(train__batch_size=2),
        job(root="/other"),
        job("hp"),
    ]
    keys = {key, *map(training_key, others)}
    assert len(keys) == 1 + len(others)


@pytest.mark.parametrize("method", ["smooseg", "primaps", "picie", "kmeans"])
def test_one_that_reads_k_has_none(method: str) -> None:
    assert training_key(job(method)) == ""
    assert training_key(job(method__clustering="probe")) == ""


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_was_left_is_found(tmp_path: Path, scheme: str) -> None:
    place = f"{scheme}{tmp_path}/trained/abc"
    assert load_trained(place, CPU) is None
    save_trained(place, RunState(3, {"loss": 0.5}, {"head": torch.ones(2)}))
    found = load_trained(place, CPU)
    assert found is not None
    assert (found.epoch, found.metrics) == (3, {"loss": 0.5})
    assert torch.equal(found.method["head"], torch.ones(2))


def test_a_damaged_state_is_trained_again(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"PK\3\4")
    assert load_trained(str(tmp_path), CPU) is None
