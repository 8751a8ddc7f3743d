"""CAUSE on two and three gloo processes against one process that holds all parts.

Modularity is a mean over images, so its training does not depend on the parts. The contrast within
a batch is between images of a part: there one process takes the mean of the parts' losses. Teacher
and bank follow all images in either case, and are the same on every worker.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.gloo import in_processes
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Step
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.cause import CAUSE
from usseg_ray.settings.cause import CAUSEConfig

IMAGES = range(6)
STEPS = 4
SIDE, DIM = 4, 6
HEADS = ("mlp", "tr")
State = dict[str, Any]


def build(head: str) -> CAUSE:
    config = CAUSEConfig.model_validate(
        {"head": head, "num_codes": 5, "dim": 4, "projection_dim": 3, "ffn_dim": 7, "window": 1}
        | {"bank_capacity": 4}
    )
    features = FeatureSpec(DIM, 8, has_attention=False, grid=SIDE, eval_grid=SIDE)
    return CAUSE(config, features, 3, seed=0)


def make_batch(images: Sequence[int], step: int) -> Batch:
    """Builds images that depend on their number and the step alone, and no stage's last step."""
    tokens = torch.stack(
        [torch.randn(DIM, SIDE, SIDE, generator=shared_generator("x", i, step)) for i in images]
    )
    names = tuple(f"image-{image}" for image in images)
    pixels = torch.zeros(len(names), 3, 32, 32)
    return Batch(names, pixels, FeatureMap(tokens), Step(step, STEPS + 1, step))


def learn(method: CAUSE, stage: str, parts: list[Sequence[int]]) -> None:
    """Takes the steps of a stage; several parts in one process stand for several workers."""
    optimiser = Optimiser(method.param_groups(stage))
    for step in range(STEPS):
        losses = [method.loss(make_batch(part, step), stage).loss for part in parts]
        torch.stack(losses).mean().backward()
        if len(parts) > 1:
            # The teacher's keys of all images, as the bank gathers them from the workers.
            with torch.no_grad():
                method.loss(make_batch([i for part in parts for i in part], step), stage)
        optimiser.step()
        method.after_step()


def trained(parts: list[Sequence[int]]) -> list[State]:
    """Returns the states of both heads after each stage."""
    states = []
    for head in HEADS:
        method = build(head)
        for stage in CAUSE.stages:
            learn(method, stage.name, parts)
            states.append({name: value.clone() for name, value in method.state_dict().items()})
    return states


def work(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    torch.save(trained([IMAGES[rank::size]]), f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[list[State]]:
    """The states of every worker."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    in_processes(work, request.param, request.param, str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


def test_workers_agree_on_every_bit(workers: list[list[State]]) -> None:
    for states in workers[1:]:
        for state, first in zip(states, workers[0], strict=True):
            assert state.keys() == first.keys()
            assert all(torch.equal(state[name], first[name]) for name in first)


def test_workers_equal_one_process_with_all_parts(workers: list[list[State]]) -> None:
    size = len(workers)
    expected = trained([IMAGES[rank::size] for rank in range(size)])
    for state, reference in zip(workers[0], expected, strict=True):
        # No output depends on a key's bias: its gradient is rounding, which Adam makes large.
        for name in (name for name in reference if not name.endswith("attention.key.bias")):
            torch.testing.assert_close(state[name], reference[name], rtol=1e-4, atol=1e-5)


def test_the_bank_holds_keys_of_every_worker(workers: list[list[State]]) -> None:
    for concepts in workers[0][1::3]:
        assert concepts["bank.added"].sum() > STEPS * len(IMAGES[:: len(workers)]) * SIDE**2 // 2


def test_modularity_does_not_depend_on_the_parts(workers: list[list[State]]) -> None:
    method = build("mlp")
    learn(method, "clusterbook", [IMAGES])
    torch.testing.assert_close(
        workers[0][0]["clusterbook"], method.clusterbook.detach(), rtol=1e-4, atol=1e-5
    )
