"""Workers that share a set unevenly, and processes that die while they hold something."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist

from tests import tiny
from tests.faults.matrix import Found, fault
from tests.faults.scenario import until
from tests.features import HERE, everything, obtain, wanted
from tests.gloo import in_processes
from usseg_ray.core.files import sweep_unfinished
from usseg_ray.core.lock import only_one
from usseg_ray.data.manifest import load_manifest
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import assemble
from usseg_ray.features.store.extraction import FeatureRequest
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.store import FeatureStore
from usseg_ray.methods import get
from usseg_ray.tracking.spool import Operation, Spool

# What is forked has it all.
set_forkserver_preload([__name__])


def scored(root: Path, method: str, seen: Path | None = None) -> dict[str, Any]:
    """Fits a method, or takes the state that one was scored with, and scores it."""
    context = PlainContext(torch.device("cpu"), [])
    data = OpenSet(str(root), load_manifest(str(root)))
    run = assemble(tiny.config(method, train__batch_size=2), get(method), data, context)
    if seen is None:
        run.fit()
    else:
        run.method.load_state_dict(torch.load(seen)["state"])
    evaluation = run.score("val", refit=False)
    assert evaluation.scores is not None
    rows, confusion = evaluation.rows, torch.from_numpy(evaluation.scores.confusion)
    return {"rows": rows, "confusion": confusion, "state": run.method.state_dict()}


def rank_scored(rank: int, root: Path, method: str, world: int) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{root / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    torch.save(scored(root / "set", method), root / f"{rank}.pt")
    dist.destroy_process_group()


def shared_unevenly(random: Random, root: Path, splits: dict[str, int], world: int) -> Found:
    """Compares what several workers find with what one finds in the state that they trained."""
    tiny.write(root / "set", splits=splits)
    method = random.choice(("acseg", "kmeans", "position"))
    now = time.monotonic()
    in_processes(rank_scored, world, root, method, world)
    seconds = time.monotonic() - now
    alone = scored(root / "set", method, root / "0.pt")
    assert alone["rows"] == splits["val"]
    for rank in range(world):
        found = torch.load(root / f"{rank}.pt")
        assert found["rows"] == splits["val"], f"rank {rank} counts {found['rows']} images"
        assert torch.equal(found["confusion"], alone["confusion"]), f"rank {rank} scores otherwise"
    assert seconds < 120
    return Found()


@fault("shards-unequal", "workers have unequal shares of rows: they find what one does")
def shards_unequal(random: Random, root: Path) -> Found:
    world = random.choice((2, 3))
    return shared_unevenly(random, root, {"train": random.randint(6, 13), "val": 7}, world)


@fault("worker-without-rows", "a worker has no row to score: the others' score is the score")
def worker_without_rows(random: Random, root: Path) -> Found:
    splits = {"train": random.randint(6, 13), "val": random.choice((1, 2))}
    return shared_unevenly(random, root, splits, splits["val"] + 1)


def killed_at_any_moment(
    work: Callable[[], object], begun: Callable[[], object], pause_s: float
) -> float:
    """Runs something in a process of its own, and kills it; returns when."""
    process = multiprocessing.get_context("forkserver").Process(target=work)
    process.start()
    until(begun, "what is to be killed", 60)
    time.sleep(pause_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return time.monotonic()


def hold(path: Path) -> None:
    with only_one(path, "this run"):
        path.with_name("held").touch()
        time.sleep(600)


@fault("lock-holder-killed", "SIGKILL of who holds a run's lock: the next has it")
def lock_holder_killed(random: Random, root: Path) -> Found:
    held = root / "held"
    now = killed_at_any_moment(partial(hold, root / ".lock"), held.exists, random.uniform(0, 0.3))
    with only_one(root / ".lock", "this run"):
        seconds = time.monotonic() - now
    assert list(root.iterdir()) == [held]
    return Found(recovery_s=seconds)


def note(root: Path) -> None:
    """Appends operations without end, and says after each that it is kept."""
    spool, marked = Spool(root / "run"), 0
    for number in range(10**9):
        spool.append(Operation("log", "t", number, {"text": "x" * (number % 700)}))
        if number % 7 == 0:
            waiting, position = spool.waiting(3)
            spool.advance(position)
            marked += len(waiting)
        (root / "said").write_text(json.dumps([number + 1, marked]))


@fault("spool-writer-killed", "SIGKILL while records are noted: every noted one is found")
def spool_writer_killed(random: Random, root: Path) -> Found:
    said = root / "said"
    now = killed_at_any_moment(partial(note, root), said.exists, random.uniform(0, 0.5))
    (root / "count").write_text(said.read_text())
    sweep_unfinished(root / "run")  # as the next life does
    spool = Spool(root / "run")
    seconds = time.monotonic() - now
    times = [operation.time for operation in spool.waiting(10**9)[0]]
    spool.close()
    # The killed one may not have lived to say what it had done.
    if text := said.read_text():
        noted, marked = json.loads(text)
        assert marked <= times[0] <= marked + 3 if times else noted <= marked + 3
        assert not times or times[-1] >= noted - 1, "a noted record is gone"
    assert times == sorted(set(times)), "a record is there twice"
    return Found(recovery_s=seconds)


def extract(asked: FeatureRequest, folder: Path) -> None:
    def slowly(request: FeatureRequest, pieces: Any) -> Any:
        for block in HERE(request, pieces):
            time.sleep(0.05)
            yield block

    FeatureStore(FeatureFolder(folder)).obtain(asked, slowly)


def stored(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.glob("**/*.arrow")}


@fault("extraction-killed", "SIGKILL while features are stored: complete ones are kept")
def extraction_killed(random: Random, root: Path) -> Found:
    tiny.write(root / "set")
    asked, folder = wanted(root / "set"), root / "store"
    now = killed_at_any_moment(
        partial(extract, asked, folder), folder.exists, random.uniform(0, 0.5)
    )
    before = stored(folder)
    entry = obtain(folder, asked)
    seconds = time.monotonic() - now
    expected = obtain(root / "other", asked)
    assert (everything(entry) == everything(expected)).all()
    entry.close()
    expected.close()
    after = stored(folder)
    return Found([path.name for path in before if after.get(path) != before[path]], [], seconds)
