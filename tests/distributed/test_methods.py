"""Two and three gloo processes on parts of the images equal one process on all of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from tests.contract.cases import CASE_IDS, CASES, LEARNERS, Case, make_batch, make_passes
from usseg_ray.config import UserError
from usseg_ray.distributed import average_gradients

IMAGES = range(6)
State = dict[str, Any]


def gradients(case: Case, images: range) -> dict[str, Tensor]:
    """Averages over the workers the gradients of each worker's own images."""
    method = case.build()
    method.loss(make_batch(images), method.stages[0].name).loss.backward()
    average_gradients(list(method.parameters()))
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def refusal(case: Case, images: range) -> str:
    try:
        case.build(num_clusters=300).fit_clusters(make_passes(images))
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
        method.fit_clusters(make_passes(own))
        state["fitted"].append(method.state_dict())
        # Only the first worker has images: the others still know the shapes and follow.
        few = case.build()
        few.fit_clusters(make_passes(IMAGES if rank == 0 else range(0)))
        state["scarce"].append(few.state_dict())
        state["refused"].append(refusal(case, own))
    state["gradients"] = [gradients(case, own) for case in LEARNERS]
    torch.save(state, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[State]:
    """What every worker found."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    spawn(work, args=(request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("index", range(len(CASES)), ids=CASE_IDS)
@pytest.mark.parametrize("share", ["fitted", "scarce"])
def test_clusters_do_not_depend_on_the_split(workers: list[State], share: str, index: int) -> None:
    alone = CASES[index].build()
    alone.fit_clusters(make_passes(IMAGES))
    expected = alone.state_dict()
    for state in workers:
        found = state[share][index]
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
            assert torch.equal(found[name], workers[0][share][index][name])


@pytest.mark.parametrize("index", range(len(LEARNERS)))
def test_averaged_gradients_are_those_of_the_whole_batch(workers: list[State], index: int) -> None:
    expected = gradients(LEARNERS[index], IMAGES)
    for state in workers:
        found = state["gradients"][index]
        assert found.keys() == expected.keys()
        largest = max(float(grad.abs().max()) for grad in expected.values())
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("index", range(len(CASES)), ids=CASE_IDS)
def test_too_few_points_stop_every_worker_alike(workers: list[State], index: int) -> None:
    expected = refusal(CASES[index], IMAGES)
    assert "distinct" in expected
    assert {state["refused"][index] for state in workers} == {expected}
