import pytest
import torch

from usseg_ray.bench.steps import STAGES, StepSizes, training_steps

SMALL = StepSizes(side=4, dim=24, pixels=32, batch=3, entries=2, clusters=5)


@pytest.mark.parametrize("method", STAGES)
def test_steps_are_those_of_the_engine(method: str) -> None:
    steps = training_steps(method, SMALL, torch.device("cpu"))
    found = steps(2)
    assert isinstance(found, dict)
    assert torch.isfinite(torch.tensor(found["loss"]))
    assert {"train_seconds", "images_per_second"} <= found.keys()
    assert steps(1) != found


def test_the_bank_is_filled_before_a_step_of_cause() -> None:
    found = training_steps("cause", SMALL, torch.device("cpu"))(1)
    assert isinstance(found, dict)
    assert found["bank_entries"] >= SMALL.entries * 2048
