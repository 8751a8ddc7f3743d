"""Ray Data as a pool of workers: items go in, what became of each batch comes out as it ends.

Items are names, not pixels: a worker reads and writes by itself, so that nothing large travels and
images of any size go the same way.
"""

import pickle
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from usseg_ray.cluster.feature_actors import restarts, share_out
from usseg_ray.cluster.ray_stream import ended, quiet
from usseg_ray.core.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Iterable[Item]], Sequence[Result]]

BATCH = 16
"""Items that a worker takes at a time; fewer where there are few."""

_SHARES = 4
"""Batches for each worker, at least, so that all end at about the same time."""


def pooled(
    make: Callable[..., Work[Item, Result]],
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
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max(resources.get("CPU", 0.0) for resources in alive)
    pool = share_out(ray.cluster_resources(), device, largest)
    actors = min(pool.actors, len(items))
    batch = max(1, min(BATCH, len(items) // (_SHARES * actors)))
    rows = [{"item": pickle.dumps(item)} for item in items]
    context = DataContext(enable_progress_bars=False)
    with DataContext.current(context), warnings.catch_warnings():
        # Of `max_restarts`, which has no name of its own in the versions that are allowed.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        given = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch))
        done = given.map_batches(
            _Actor,
            fn_constructor_args=(partial(make, *arguments, device, pool.threads),),
            batch_size=batch,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=actors),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=restarts(len(alive)),
        )
    batches = done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    with quiet(), ended(done, batches) as blocks:
        for block in blocks:
            for result in map(pickle.loads, block["result"]):
                if isinstance(result, UserError):
                    raise result
                yield result


class _Actor(Generic[Item, Result]):
    """A worker as Ray Data calls it.

    What it says to the user is a result: Ray Data makes text of what is raised. It is made with the
    first items, so that this holds for a model that cannot be opened, too.
    """

    def __init__(self, make: Callable[[], Work[Item, Result]]) -> None:
        self._make = make

    @cached_property
    def _work(self) -> Work[Item, Result]:
        return self._make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results: Sequence[Result | UserError]
        try:
            results = self._work([pickle.loads(item) for item in batch["item"]])
        except UserError as mistake:
            results = [mistake]
        return {"result": np.array([pickle.dumps(result) for result in results], object)}
