"""HP's pools are those of one process, and workers learn from the mean of their own losses."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.contract.cases import FEATURES, NUM_CLUSTERS, make_batch
from tests.gloo import in_processes
from usseg_ray.core.distributed import average_gradients
from usseg_ray.core.types import Batch, Step
from usseg_ray.methods.hp import HP
from usseg_ray.settings.hp import HPConfig

IMAGES = range(6)
JOINT = 4
CONFIG = HPConfig(clustering="probe", dim=8, pool_size=10, renewal_steps=3, ramp_start=0)
MOMENTS = [Step(0, 9, 0), Step(3, 9, 3), Step(6, 9, 6)]
State = dict[str, Any]


class Share:
    """A worker's share of joint batches of shuffled crops; the last leaves some without images."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        return self.crops(0, JOINT)

    def names(self) -> list[str]:
        return [name for batch in self() for name in batch.ids]

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002
        order = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(walk)).tolist()
        for start in range(0, len(order), JOINT):
            own = order[start : start + JOINT][self.rank :: self.size]
            # An empty part has the shapes of a full one.
            whole = make_batch(own or [0])
            yield whole if own else emptied(whole)


def emptied(batch: Batch) -> Batch:
    features = type(batch.features)(batch.features.tokens[:0])
    return Batch((), batch.pixels[:0], features)


def built() -> HP:
    return HP(CONFIG, FEATURES, NUM_CLUSTERS, seed=0)


def pools(rank: int, size: int) -> list[Tensor]:
    """Fills and renews the pools while the teacher moves."""
    method, found = built(), list[Tensor]()
    for moment in MOMENTS:
        method.before_step("train", moment, Share(rank, size))
        found += [method.agnostic_pool.rows.clone(), method.specific_pool.rows.clone()]
        with torch.no_grad():
            method.teacher.linear.weight.mul_(-0.5)
    return found


def gradients(part: range, rank: int, size: int) -> dict[str, Tensor]:
    """Takes the gradient of a part's loss, and what the loss remembers."""
    method = built()
    method.before_step("train", MOMENTS[0], Share(rank, size))
    method.loss(make_batch(part, step=5), "train").loss.backward()
    average_gradients(list(method.parameters()))
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return found | {f"teacher.{name}": p for name, p in method.teacher.named_parameters()}


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    state = {"pools": pools(rank, size), "gradients": gradients(IMAGES[rank::size], rank, size)}
    torch.save(state, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[State]:
    """What every worker found."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    in_processes(work, request.param, request.param, str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


def test_pools_are_those_of_one_process(workers: list[State]) -> None:
    alone = pools(0, 1)
    for state in workers:
        for found, expected, first in zip(state["pools"], alone, workers[0]["pools"], strict=True):
            assert torch.equal(found, first)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(alone[0], alone[2])
    assert not torch.equal(alone[1], alone[3])


def test_gradient_is_the_mean_of_the_parts(workers: list[State]) -> None:
    size = len(workers)
    parts = [gradients(IMAGES[rank::size], 0, 1) for rank in range(size)]
    for state in workers:
        found = state["gradients"]
        assert found.keys() == parts[0].keys()
        for name, value in found.items():
            expected = torch.stack([part[name] for part in parts]).mean(0)
            scale = 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=max(scale, 1e-8))
            assert torch.equal(value, workers[0]["gradients"][name])
