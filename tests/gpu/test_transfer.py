"""On a GPU the next batch is copied while one is used; a step is waited for once, for its loss."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.features import obtain, wanted
from usseg_ray.bench.meter import host_waits
from usseg_ray.bench.steps import WAITS, StepSizes, training_steps
from usseg_ray.ops.transfer import one_ahead, sending, sent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_rows_that_are_copied_ahead_are_those_of_the_cpu(tmp_path: Path) -> None:
    tiny.write(tmp_path / "set")
    entry = obtain(tmp_path / "store", wanted(tmp_path / "set"))
    random, cuda = np.random.default_rng(0), torch.device("cuda")
    batches = [random.integers(0, 14, 5) for _ in range(40)]
    matrix = torch.randn(2048, 2048, device=cuda)
    walk = one_ahead(entry.begin(rows, cuda) for rows in batches)
    for rows, give in zip(batches, walk, strict=True):
        for _ in range(4):  # the device is behind the process
            matrix = (matrix @ matrix).sin()
        tokens = give().tokens
        assert tokens.device.type == "cuda"
        here = entry.feature_map(rows, torch.device("cpu")).tokens
        assert torch.equal(tokens.cpu(), here)


def test_what_is_sent_arrives() -> None:
    cuda = torch.device("cuda")
    values = torch.randn(1000)
    assert torch.equal(sent(values, cuda).cpu(), values)
    assert torch.equal(sending(values.pin_memory(), cuda)().cpu(), values)
    assert sent(values[:0], cuda).shape == (0,)


@pytest.mark.parametrize("method", WAITS)
def test_a_step_waits_no_more_than_is_known(method: str) -> None:
    sizes = StepSizes(side=8, dim=48, pixels=64, batch=4, entries=1, clusters=5)
    steps = training_steps(method, sizes, torch.device("cuda"))
    one, three = (host_waits(partial(steps, number)) for number in (1, 3))
    assert (three - one) / 2 <= WAITS[method]
