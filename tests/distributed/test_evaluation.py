"""Two and three gloo processes count what one process counts, to the bit, refined or not."""

from pathlib import Path
from typing import Any

import numpy as np
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
from usseg_ray.scoring.mean_field import mean_field
from usseg_ray.scoring.prediction import Refiners
from usseg_ray.scoring.protocols import Refinement

METHODS = ("acseg", "kmeans")
PROTOCOLS = ("centre-crop", "full-resolution")
REFINEMENTS = tuple(map(Refinement.parse, ("flip", "flip+crf")))
Facts = dict[Any, Any]


def run_of(root: str, manifest: Manifest, method: str, protocol: str) -> Run:
    # Smaller than the images, so that whole ones are seen through windows.
    config = tiny.config(method, protocol=protocol, data__eval_size=24)
    return assemble(
        config, get(method), OpenSet(root, manifest), PlainContext(torch.device("cpu"), [])
    )


def facts(run: Run) -> Facts:
    evaluation = run.score("val", refit=False, refining=Refiners(REFINEMENTS, mean_field))
    return {
        str(name): (torch.from_numpy(result.scores.confusion), result.boundary_f)
        for name, result in evaluation.results.items()
    }


def work(rank: int, world: int, root: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    states = torch.load(f"{folder}/states.pt")
    found = {}
    for method, protocol in states:
        run = run_of(root, load_manifest(root), method, protocol)
        run.method.load_state_dict(states[method, protocol])
        found[method, protocol] = facts(run)
    torch.save(found, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Facts, Facts]:
    """A set with oblong images, states of methods, and what one process counts."""
    root = tmp_path_factory.mktemp("set")
    manifest = tiny.write(root, shape=(32, 44))
    states, counted = Facts(), Facts()
    for method in METHODS:
        for protocol in PROTOCOLS:
            run = run_of(str(root), manifest, method, protocol)
            run.fit()
            states[method, protocol] = run.method.state_dict()
            counted[method, protocol] = facts(run)
    return str(root), states, counted


@pytest.mark.parametrize("world", [2, 3])
def test_workers_count_what_one_process_counts(
    alone: tuple[str, Facts, Facts], world: int, tmp_path: Path
) -> None:
    root, states, counted = alone
    torch.save(states, tmp_path / "states.pt")
    in_processes(work, world, world, root, str(tmp_path))
    for rank in range(world):
        found = torch.load(tmp_path / f"rank-{rank}.pt")
        for case, expected in counted.items():
            assert list(found[case]) == ["no refiner", "flip", "flip+crf"]
            for name, (confusion, boundary_f) in expected.items():
                assert torch.equal(found[case][name][0], confusion)
                assert found[case][name][1] == boundary_f


def test_refinements_change_what_is_counted(alone: tuple[str, Facts, Facts]) -> None:
    _, _, counted = alone
    for case, found in counted.items():
        plain, flip, crf = (confusion for confusion, _ in found.values())
        assert plain.sum() == flip.sum() == crf.sum()
        assert not torch.equal(plain, crf)
        # Every labelled pixel of the whole image counts, or those of the centre square.
        share = 7 * (32 * 42 if case[1] == "full-resolution" else 24 * 24)
        assert int(plain.sum()) == pytest.approx(share, rel=0.05)


def test_the_same_evaluation_twice_is_the_same(alone: tuple[str, Facts, Facts]) -> None:
    root, states, counted = alone
    for case in counted:
        run = run_of(root, load_manifest(root), *case)
        run.method.load_state_dict(states[case])
        again = facts(run)
        for name, (confusion, _) in counted[case].items():
            assert np.array_equal(again[name][0], confusion)
