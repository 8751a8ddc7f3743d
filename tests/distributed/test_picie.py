"""PiCIE's epoch is the same, to the last bit, for one, two and three workers.

Joint batches are dealt in contiguous parts, uneven ones among them. The clusters, the counts and
the running statistics are bit-equal; losses and gradients agree up to rounding, for the networks
normalise by the joint batch and the weighted means are ratios of joint sums.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.contract.cases import FEATURES, NUM_CLUSTERS, make_batch
from tests.gloo import in_processes
from usseg_ray.core.distributed import average_gradients, rank, world_size
from usseg_ray.core.types import Batch
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.picie import PiCIE
from usseg_ray.settings.picie import PiCIEConfig

IMAGES, TRAINED = 17, range(7)
NETWORK = {"name": "test_resnet", "pretrained": False, "dim": 16}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"mse": True},
    {"variant": "over_clustering", "over_clusters": 9, "class_weights": "balanced"},
    {"variant": "mdc"},
)
NAMES = ["picie", "over_clustering", "mdc"]
State = dict[str, Any]


class Dealt:
    """Joint batches in a shuffled order, of which this worker gets its contiguous part."""

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        return self.crops(0, 4)

    def names(self) -> list[str]:
        return [name for batch in self() for name in batch.ids]

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(walk)).tolist()
        for start in range(0, IMAGES - batch_size + 1, batch_size):
            yield make_batch(part(order[start : start + batch_size]))


def part(images: list[int]) -> list[int]:
    first, last = (number * len(images) // world_size() for number in (rank(), rank() + 1))
    return images[first:last]


def facts(settings: dict[str, Any]) -> State:
    """Two epochs' starts with a step between them, and the loss and gradients of that step."""
    common = {"network": NETWORK, "cluster_batch": 5, "init_batches": 2, "kmeans_iterations": 5}
    config = PiCIEConfig.model_validate(common | settings)
    method = PiCIE(config, FEATURES, NUM_CLUSTERS, 0).train()
    method.on_epoch_start("train", 0, Dealt())
    begun = {name: value.clone() for name, value in method.state_dict().items()}
    loss = method.loss(make_batch(part(list(TRAINED))), "train").loss
    loss.backward()
    learnt = [p for group in method.param_groups("train") for p in group.params]
    average_gradients(learnt)
    total = loss.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return {
        "begun": begun,
        "loss": total / world_size(),
        "gradients": [p.grad.clone() for p in learnt if p.grad is not None],
        "buffers": {name: value.clone() for name, value in method.named_buffers()},
    }


def trained(settings: dict[str, Any]) -> State:
    """An epoch of two steps and the start of the next."""
    config = PiCIEConfig.model_validate({"network": NETWORK, "cluster_batch": 5} | settings)
    method = PiCIE(config, FEATURES, NUM_CLUSTERS, 0).train()
    optimiser = Optimiser(method.param_groups("train"))
    method.on_epoch_start("train", 0, Dealt())
    for _ in range(2):
        method.loss(make_batch(part(list(TRAINED))), "train").loss.backward()
        optimiser.step()
    method.on_epoch_start("train", 1, Dealt())
    return method.state_dict()


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    state = {"facts": [facts(settings) for settings in SETTINGS], "trained": trained({})}
    torch.save(state, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> list[State]:
    return [facts(settings) for settings in SETTINGS]


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[State]:
    """What every worker found."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    in_processes(work, request.param, request.param, str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=NAMES)
def test_the_start_of_an_epoch_is_bit_equal(
    workers: list[State], alone: list[State], index: int
) -> None:
    expected = alone[index]["begun"]
    assert {"clustering.centroids", "clustering.counts", "clustering.distance"} < set(expected)
    for state in workers:
        found = state["facts"][index]["begun"]
        assert found.keys() == expected.keys()
        for name in expected:
            assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=NAMES)
def test_loss_and_gradients_are_those_of_the_joint_batch(
    workers: list[State], alone: list[State], index: int
) -> None:
    expected = alone[index]
    largest = max(float(gradient.abs().max()) for gradient in expected["gradients"])
    for state in workers:
        found = state["facts"][index]
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-5, atol=1e-6)
        assert len(found["gradients"]) == len(expected["gradients"])
        for own, whole in zip(found["gradients"], expected["gradients"], strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=NAMES)
def test_running_statistics_stay_equal_over_workers(
    workers: list[State], alone: list[State], index: int
) -> None:
    expected = alone[index]["buffers"]
    for name, value in expected.items():
        first = workers[0]["facts"][index]["buffers"][name]
        torch.testing.assert_close(first, value, rtol=1e-5, atol=1e-6)
        for state in workers:
            assert torch.equal(state["facts"][index]["buffers"][name], first), name


def test_workers_stay_equal_over_steps_and_epochs(workers: list[State]) -> None:
    first = workers[0]["trained"]
    for state in workers:
        assert all(torch.equal(state["trained"][name], first[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())
