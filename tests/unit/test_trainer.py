import pytest

from usseg_ray.config import ResourceConfig
from usseg_ray.trainer import TRIAL_MEMORY_BYTES, trial_resources


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
