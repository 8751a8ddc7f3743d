"""A GPU draws the chances that a CPU draws."""

import pytest
import torch

from usseg_ray.ops.draws import chances

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_chances_are_those_of_the_cpu() -> None:
    cpu, gpu = (
        chances(("a", "b"), (784, 784), 0.02, 1, "pairs", device=torch.device(device))
        for device in ("cpu", "cuda")
    )
    assert torch.equal(gpu.cpu(), cpu)
