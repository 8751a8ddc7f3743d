"""What befalls Ray: its processes, its object store, the ranks of a worker group, two machines."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil

from tests.faults.kills import TRAINING, lives_through, settled, stopped
from tests.faults.matrix import Found, fault
from tests.faults.scenario import RANKS, Life, Sweep, named, shared_ray, until


def own(life: Life, names: tuple[str, ...]) -> list[psutil.Process]:
    """Lists processes of the Ray that a command has started for itself."""
    found = psutil.Process(life.pid).children()
    return [process for process in found if process.name() in names]


def killed_ray(random: Random, root: Path, names: tuple[str, ...]) -> Found:
    sweep = Sweep(root)
    life = sweep.begin()
    until(lambda: own(life, names) or life.ended(), "a Ray of its own")
    sweep.wait(life, random)
    before, now = sweep.finished(), time.monotonic()
    for process in own(life, names) if not life.ended() else ():
        process.kill()
    code = life.end(120)
    assert code in (0, 130), f"it ended with {code}: {life.said()[-500:]}"
    assert "Traceback" not in life.said(), life.said()[-500:]
    return settled(sweep, before, sweep.go_on(now))


@fault("raylet-killed", "SIGKILL of Ray's raylet: ends as at Ctrl-C, and is gone on with")
def raylet_killed(random: Random, root: Path) -> Found:
    return killed_ray(random, root, ("raylet",))


@fault("ray-killed", "the same of its control service too")
def ray_killed(random: Random, root: Path) -> Found:
    return killed_ray(random, root, ("raylet", "gcs_server"))


@fault("raylet-stopped", "SIGSTOP of Ray's raylet for one to eight seconds")
def raylet_stopped(random: Random, root: Path) -> Found:
    def stop(life: Life) -> None:
        stopped(own(life, ("raylet",)), random.uniform(1, 8))

    return lives_through(random, Sweep(root), stop, TRAINING)


def ranks(random: Random, root: Path, happen: Callable[[psutil.Process], object]) -> Found:
    """Has something happen to one rank of two."""

    def to_one(life: Life) -> None:
        found = named("RayTrainWorker")
        assert found or life.ended(), "there is no rank any more"
        if found:
            happen(random.choice(found))

    return lives_through(random, Sweep(root, workers=2), to_one, (RANKS, *TRAINING[:2]))


@fault("rank-killed", "SIGKILL of one rank of a group of two", within=shared_ray)
def rank_killed(random: Random, root: Path) -> Found:
    return ranks(random, root, psutil.Process.kill)


@fault("rank-stopped", "SIGSTOP of one rank for one to eight seconds", within=shared_ray)
def rank_stopped(random: Random, root: Path) -> Found:
    return ranks(random, root, lambda rank: stopped([rank], random.uniform(1, 8)))


@fault("rank-raises", "an exception in one rank: it can open no file any more", within=shared_ray)
def rank_raises(random: Random, root: Path) -> Found:
    # Of what it has open nothing is closed, and the next file that it opens is refused.
    def close(rank: psutil.Process) -> None:
        _, most = rank.rlimit(psutil.RLIMIT_NOFILE)
        rank.rlimit(psutil.RLIMIT_NOFILE, (1, most))

    return ranks(random, root, close)


def fill(seconds: float) -> None:
    """Holds as much in Ray's object store as fits, and more."""
    import numpy as np
    import ray

    ray.init(log_to_driver=False, logging_level="ERROR")
    held, ends = list[object](), time.monotonic() + seconds
    while time.monotonic() < ends:
        if len(held) < 80:
            held.append(ray.put(np.zeros(2**22, dtype=np.uint8)))
        time.sleep(0.01)


@fault("object-store-full", "another job fills Ray's object store", within=shared_ray)
def object_store_full(random: Random, root: Path) -> Found:
    filler = multiprocessing.get_context("fork").Process(target=fill, args=(20,))

    def happen(life: Life) -> None:
        filler.start()

    found = lives_through(random, Sweep(root), happen)
    filler.kill()
    filler.join()
    return found
