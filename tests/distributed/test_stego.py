"""STEGO, EQUSS, PPAP and SmooSeg compare the images of a worker's own part; nothing else crosses.

So two and three gloo processes learn from the mean of the losses of their parts. One process that
walks the parts itself ends with the same weights, centroids and teachers.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.contract.cases import Case, Walks, make_batch
from tests.gloo import in_processes
from usseg_ray.core.types import Step
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.equss import EQUSS
from usseg_ray.methods.ppap import PPAP
from usseg_ray.methods.smooseg import SmooSeg
from usseg_ray.methods.stego import STEGO

CASES = (
    Case(STEGO, {"clustering": "probe"}),
    Case(EQUSS, {"clustering": "probe"}),
    Case(PPAP, {"clustering": "probe"}),
    Case(SmooSeg, {}),
)
IMAGES = range(6)
STEPS = 3
State = dict[str, Tensor]


def trained(case: Case, parts: list[range]) -> State:
    """Takes a few steps on the mean of the losses of parts."""
    method = case.build()
    optimiser = Optimiser(method.param_groups("train"))
    for number in range(STEPS):
        method.before_step("train", Step(number, STEPS, number), Walks(IMAGES))
        for part in parts:
            loss = method.loss(make_batch(part, number), "train").loss
            (loss / len(parts)).backward()
        optimiser.step()
        method.after_step()
    return method.state_dict()


def work(rank: int, size: int, folder: str) -> None:
    """Trains on every size-th image."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    states = [trained(case, [IMAGES[rank::size]]) for case in CASES]
    torch.save(states, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[list[State]]:
    """Every worker's states."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    in_processes(work, request.param, request.param, str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=["stego", "equss", "ppap", "smooseg"])
def test_workers_learn_from_the_mean_of_their_losses(
    workers: list[list[State]], index: int
) -> None:
    size = len(workers)
    expected = trained(CASES[index], [IMAGES[rank::size] for rank in range(size)])
    start = CASES[index].build().state_dict()
    for states in workers:
        found = states[index]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # Adam divides by the gradient's size, so rounding weighs as much as the rate.
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
            assert torch.equal(found[name], workers[0][index][name])
            # The norm behind PPAP's block is the backbone's own, and stays as it is.
            assert torch.equal(found[name], start[name]) == name.startswith("block.norm.")
