"""Two gloo processes train together, and score every image once, as one process would."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests import tiny
from tests.gloo import in_processes
from usseg_ray.data.manifest import Manifest, load_manifest
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import Run, assemble
from usseg_ray.methods import get

WORLD = 2
METHODS = ("acseg", "position", "kmeans")
State = dict[str, Any]


def run_of(root: str, manifest: Manifest, method: str) -> tuple[Run, PlainContext]:
    context = PlainContext(torch.device("cpu"), [])
    return assemble(tiny.config(method), get(method), OpenSet(root, manifest), context), context


def facts(run: Run, split: str, *, refit: bool) -> State:
    evaluation = run.score(split, refit=refit)
    assert evaluation.scores is not None
    judgement = run._judge(run.method)
    return {
        "judged": judgement.metrics,
        "maps": torch.from_numpy(judgement.maps),
        "rows": evaluation.rows,
        "confusion": torch.from_numpy(evaluation.scores.confusion),
        "unsup_miou": evaluation.scores.unsup_miou,
    }


def work(rank: int, root: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    manifest = load_manifest(root)
    found: State = {}
    for method in METHODS:
        run, context = run_of(root, manifest, method)
        run.fit()
        state = copy.deepcopy(run.method.state_dict())
        found[method] = {
            "history": context.history,
            "state": state,
            "kept": {split: facts(run, split, refit=False) for split in ("val", "test")},
            "refitted": facts(run, "val", refit=True),
        }
    # Training rows of an epoch: both workers' parts, before any crop.
    run, _ = run_of(root, manifest, "acseg")
    steps, size = run._portions()
    ((*batches,),) = (list(epoch) for epoch in run.reader.training(range(1), steps, size))
    found["portions"] = (steps, size)
    found["ids"] = [key for images in batches for key in images.ids]
    torch.save(found, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


@pytest.fixture(scope="module")
def workers(
    prepared: tuple[str, Manifest], tmp_path_factory: pytest.TempPathFactory
) -> list[State]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    in_processes(work, WORLD, prepared[0], str(folder))
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(WORLD)]


def test_every_worker_trains_on_rows_of_its_own(workers: list[State]) -> None:
    assert [state["portions"] for state in workers] == [(3, 2)] * WORLD
    ids = [key for state in workers for key in state["ids"]]
    assert len(ids) == len(set(ids)) == 12


def test_training_keeps_the_workers_equal(workers: list[State]) -> None:
    first, second = (state["acseg"]["state"] for state in workers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for state in workers:
        history = state["acseg"]["history"]
        assert [entry["epoch"] for entry in history] == [1, 2]
        assert all(entry["concepts_used"] >= 1 for entry in history)
    scores = [[entry["unsup_miou"] for entry in s["acseg"]["history"]] for s in workers]
    assert scores[0] == scores[1]


def test_training_moves_the_weights(workers: list[State], prepared: tuple[str, Manifest]) -> None:
    untrained = run_of(*prepared, "acseg")[0].method.state_dict()
    trained = workers[0]["acseg"]["state"]
    assert any(not torch.equal(untrained[name], trained[name]) for name in untrained)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_that_of_one_process(
    workers: list[State], prepared: tuple[str, Manifest], method: str, split: str
) -> None:
    run, _ = run_of(*prepared, method)
    run.method.load_state_dict(workers[0][method]["state"])
    alone = facts(run, split, refit=False)
    assert alone["rows"] == tiny.SPLITS[split]
    for state in workers:
        found = state[method]["kept"][split]
        assert found["rows"] == tiny.SPLITS[split]
        assert torch.equal(found["confusion"], alone["confusion"])
        assert found["unsup_miou"] == alone["unsup_miou"]


@pytest.mark.parametrize("method", METHODS)
def test_clusters_are_those_of_one_process(
    workers: list[State], prepared: tuple[str, Manifest], method: str
) -> None:
    run, _ = run_of(*prepared, method)
    run.method.load_state_dict(workers[0][method]["state"])
    alone = facts(run, "val", refit=True)
    for state in workers:
        assert torch.equal(state[method]["refitted"]["confusion"], alone["confusion"])
        assert state[method]["refitted"]["judged"] == alone["judged"]
        assert torch.equal(state[method]["refitted"]["maps"], alone["maps"])
