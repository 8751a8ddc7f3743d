"""Processes of the distributed suite, forked from one that has imported torch once for all."""

from collections.abc import Callable
from multiprocessing.forkserver import set_forkserver_preload

from torch.multiprocessing.spawn import start_processes

set_forkserver_preload(
    ["torch.distributed", "usseg_ray.engine.run", "usseg_ray.methods", "tests.tiny"]
)


def in_processes(work: Callable[..., None], world: int, *arguments: object) -> None:
    """Calls `work(rank, *arguments)` in as many processes, and waits for them.

    Args:
        work: Known by name there.
        world: How many.
        arguments: Picklable.
    """
    start_processes(work, args=arguments, nprocs=world, start_method="forkserver")
