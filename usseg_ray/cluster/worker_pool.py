"""A pool of actors on the whole cluster, and what it does: items go in, results come out.

The items of `pooled` are names, not pixels: a worker reads and writes by itself, so that nothing
large travels and images of any size go the same way.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Generic, TypeVar

import ray
from ray.util import ActorPool

from usseg_ray.cluster.ray_stream import END_TIMEOUT_S, users_mistakes

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Sequence[Item]], Result]

BATCH = 16
"""Items that a worker takes at a time; fewer where there are few."""

THREADS = 4

_SHARES = 4
"""Batches for each worker, at least, so that all end at about the same time."""

_CALLS = 2
"""Batches that each worker has: the one that it works on, and the next."""


@dataclass(frozen=True)
class Pool:
    """How a cluster is shared between computing and reading.

    Attributes:
        actors: Processes with a backbone each.
        cpus: CPUs that each reserves.
        gpus: GPUs that each reserves.
        threads: CPU threads of each.
        read_cpus: CPUs that each reading task reserves.
        reading: CPUs that are left for reading tasks.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int
    read_cpus: float
    reading: float


def share_out(resources: Mapping[str, float], device: str, node_cpus: float) -> Pool:
    """Shares a cluster's resources between actors and reading tasks.

    Actors never get all CPUs: reading tasks would wait for ever, and the actors for them.

    Args:
        resources: The cluster's `CPU` and `GPU`.
        device: Where to compute. With GPUs an actor drives one, in one thread, and the CPUs
            decode; without, a few actors compute with a few threads each, which needs less memory
            than one for every CPU, and decoding is the smaller part.
        node_cpus: CPUs of the largest node: an actor that asks for more would wait for ever.

    Returns:
        The shares.
    """
    cpus = max(1.0, resources.get("CPU", 1.0))
    if device == "cuda":
        actors = max(1, int(resources.get("GPU", 1)))
        each = min(1.0, cpus / actors / 2)
        left = cpus - actors * each
        return Pool(actors, each, 1.0, 1, min(1.0, left), left)
    threads = max(1, int(min(THREADS, cpus, node_cpus)))
    actors = max(1, int(cpus / threads))
    # What an actor leaves of its threads is a reading task's.
    share = 0.25
    return Pool(actors, threads - share, 0.0, threads, share, cpus - actors * (threads - share))


def restarts(num_nodes: int) -> int:
    """Says how often Ray starts a dead actor of a pool again: -1, always, or never on one machine.

    An actor of a node that is lost goes on elsewhere. Where there is one node, it would die again,
    and of actors that it may start again Ray's core warns on the terminal, over whatever is there.
    """
    return 0 if num_nodes == 1 else -1


def cluster_pool(device: str) -> Pool:
    """Shares out the cluster that this process has joined.

    Args:
        device: `cpu`, or `cuda` on all of its GPUs.
    """
    largest = max(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return share_out(ray.cluster_resources(), device, largest)


@contextmanager
def working(
    make: Callable[[], Work[Item, Result]], pool: Pool, count: int, calls: int
) -> Iterator[ActorPool]:
    """Starts workers, and kills them at the end of the block.

    Args:
        make: Makes a worker's work.
        pool: What each reserves.
        count: Workers.
        calls: How many calls of its `work` each is given at a time.

    Yields:
        The workers.
    """
    restarted = restarts(sum(node["Alive"] for node in ray.nodes()))
    actor = ray.remote(PoolActor).options(
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_restarts=restarted,
        max_task_retries=restarted,
    )
    actors = [actor.remote(make) for _ in range(count)]
    try:
        yield ActorPool(actors * calls)
    finally:
        if ray.is_initialized():
            for one in actors:
                ray.kill(one)
            gone = [one.__ray_ready__.remote() for one in actors]
            ray.wait(gone, num_returns=count, timeout=END_TIMEOUT_S)


class PoolActor(Generic[Item, Result]):
    """What an actor does. It is made with its first items: what goes wrong then is their result."""

    def __init__(self, make: Callable[[], Work[Item, Result]]) -> None:
        self._make = make

    @cached_property
    def _work(self) -> Work[Item, Result]:
        return self._make()

    def work(self, items: Sequence[Item]) -> Result:
        """Does it with some items."""
        return self._work(items)


def pooled(
    make: Callable[..., Work[Item, Sequence[Result]]],
    arguments: Sequence[object],
    items: Sequence[Item],
    device: str,
) -> Generator[Result, None, None]:
    """Has the cluster's workers do something with every item.

    Args:
        make: Makes a worker of the arguments, a device and the CPU threads that it may use.
        arguments: Picklable.
        items: Picklable; their order is not kept.
        device: `cpu`, or `cuda` on all GPUs.

    Yields:
        What a worker returned for each item.

    Raises:
        UserError: As a worker raised it.
    """
    pool = cluster_pool(device)
    count = min(pool.actors, len(items))
    size = max(1, min(BATCH, len(items) // (_SHARES * count)))
    work = partial(make, *arguments, device, pool.threads)
    with working(work, pool, count, _CALLS) as workers:
        for start in range(0, len(items), size):
            workers.submit(lambda one, some: one.work.remote(some), items[start : start + size])
        while workers.has_next():
            with users_mistakes():
                results = workers.get_next_unordered()
            yield from results
