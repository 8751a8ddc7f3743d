"""Two and three gloo processes on parts of the images equal one process on all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.contract.cases import CASE_IDS, CASES, STAGE_IDS, STAGES, Case, Walks, make_batch
from tests.gloo import in_processes
from usseg_ray.core.distributed import average_gradients
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Step
from usseg_ray.methods.base import Method

IMAGES = range(6)
# A loss in which images of a batch meet is computed on each worker's part, and averaged; but that
# of PriMaPs-EM is of the joint batch, and so is PiCIE's (tests/distributed/test_picie.py).
ALONE = [(case, stage) for case, stage in STAGES if case.method.name != "picie"]
ALONE_IDS = [name for name in STAGE_IDS if not name.startswith("picie")]
SEPARABLE = [i for i, (case, _) in enumerate(ALONE) if case.method.name != "primaps"]
WHOLE = [i for i, (case, _) in enumerate(ALONE) if case.method.name in {"acseg", "primaps"}]
State = dict[str, Any]


def prepared(case: Case, stage: str) -> Method:
    """Builds a method that stands before the first step of a stage, in one process."""
    method = case.build().train()
    method.on_epoch_start(stage, 0, Walks(IMAGES))
    method.before_step(stage, Step(), Walks(IMAGES))
    return method


def gradients(method: Method, stage: str, images: Sequence[int]) -> dict[str, Tensor]:
    """Computes this worker's gradients of its own images, averaged over the workers."""
    method.loss(make_batch(images), stage).loss.backward()
    average_gradients(list(method.parameters()))
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def refusal(case: Case, images: range) -> str:
    try:
        case.build(num_clusters=300).fit_clusters(Walks(images))
    except UserError as error:
        return str(error)
    return "no error"


def work(rank: int, size: int, folder: str) -> None:
    """Does what the tests look at, on every size-th image."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    own = IMAGES[rank::size]
    state: State = {"fitted": [], "scarce": [], "refused": []}
    for case in CASES:
        method = case.build()
        method.fit_clusters(Walks(own))
        state["fitted"].append(method.state_dict())
        # Only the first worker has images: the others still know the shapes and follow.
        few = case.build()
        few.fit_clusters(Walks(IMAGES if rank == 0 else range(0)))
        state["scarce"].append(few.state_dict())
        state["refused"].append(refusal(case, own))
    before = torch.load(f"{folder}/before.pt")
    state["gradients"] = []
    for (case, stage), values in zip(ALONE, before, strict=True):
        method = case.build().train()
        method.load_state_dict(values)
        state["gradients"].append(gradients(method, stage, own))
    torch.save(state, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[State]:
    """What every worker found."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    states = [prepared(case, stage).state_dict() for case, stage in ALONE]
    torch.save(states, folder / "before.pt")
    in_processes(work, request.param, request.param, str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=CASE_IDS)
@pytest.mark.parametrize("share", ["fitted", "scarce"])
def test_clusters_do_not_depend_on_the_split(workers: list[State], share: str, index: int) -> None:
    alone = CASES[index].build()
    alone.fit_clusters(Walks(IMAGES))
    expected = alone.state_dict()
    for state in workers:
        found = state[share][index]
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(found[name], workers[0][share][index][name])


@pytest.mark.parametrize("index", SEPARABLE, ids=[ALONE_IDS[i] for i in SEPARABLE])
def test_averaged_gradients_are_the_mean_of_those_of_the_parts(
    workers: list[State], index: int
) -> None:
    case, stage = ALONE[index]
    parts = [
        gradients(prepared(case, stage), stage, IMAGES[rank :: len(workers)])
        for rank in range(len(workers))
    ]
    expected = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for state in workers:
        found = state["gradients"][index]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("index", WHOLE, ids=[ALONE_IDS[i] for i in WHOLE])
def test_a_mean_over_images_does_not_depend_on_the_parts(workers: list[State], index: int) -> None:
    case, stage = ALONE[index]
    expected = gradients(prepared(case, stage), stage, IMAGES)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, value in workers[0]["gradients"][index].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("index", range(len(CASES)), ids=CASE_IDS)
def test_too_few_points_stop_every_worker_alike(workers: list[State], index: int) -> None:
    expected = refusal(CASES[index], IMAGES)
    assert ("distinct" in expected) != CASES[index].learns_clusters
    assert {state["refused"][index] for state in workers} == {expected}
