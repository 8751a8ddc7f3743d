"""Ray Data as the way to compute features: tasks read and decode, a pool of actors computes.

In place of `features.store.extraction.features_here`. Rows come back in order, so the process that
asked writes whole shards one after the other and holds one of them at a time.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from usseg_ray.cluster.ray_stream import BLOCK_BYTES, PieceSource, ended, quiet
from usseg_ray.core.errors import UserError
from usseg_ray.data.blocks import Block
from usseg_ray.data.plans import Piece
from usseg_ray.features.store.extraction import BATCH_ROWS, Extractor, FeatureRequest, Features

THREADS = 4


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


def ray_features(device: str) -> Features:
    """Computes features on the cluster that this process has joined.

    Args:
        device: `cpu`, or `cuda` on all of its GPUs.
    """

    def features(wanted: FeatureRequest, pieces: list[Piece]) -> Iterator[Block]:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = max(resources.get("CPU", 0.0) for resources in alive)
        pool = share_out(ray.cluster_resources(), device, largest)
        source = PieceSource(wanted.root, pieces, wanted.entry.recipe.showing)
        context = DataContext(enable_progress_bars=False, target_max_block_size=BLOCK_BYTES)
        context.execution_options.preserve_order = True
        with DataContext.current(context), warnings.catch_warnings():
            # Of `max_restarts`, which has no name of its own in the versions that are allowed.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            shown = ray.data.read_datasource(
                source, num_cpus=pool.read_cpus, override_num_blocks=source.num_tasks
            )
            rows = shown.map_batches(
                Extractor,
                fn_constructor_args=(wanted, device, pool.threads),
                batch_size=BATCH_ROWS,
                batch_format="numpy",
                compute=ActorPoolStrategy(size=pool.actors),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                max_restarts=restarts(len(alive)),
            )
        batches = rows.iter_batches(batch_size=None, batch_format="numpy")
        with quiet(), _users_mistakes(), ended(rows, batches) as blocks:
            yield from blocks

    return features


@contextmanager
def _users_mistakes() -> Iterator[None]:
    """Brings a `UserError` of a task or an actor back as what it is, for example a damaged image.

    Ray wraps it in errors of its own, and Ray Data these in others.
    """
    try:
        yield
    except RayError as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        raise UserError(str(mistake)) from None


def _mistake(error: BaseException | None) -> UserError | None:
    while error is not None:
        cause = getattr(error, "cause", None)
        for found in (error, cause):
            # Ray makes a class that is both its own error and the task's.
            if isinstance(found, UserError) and not isinstance(found, RayError):
                return found
        error = error.__cause__ or error.__context__
    return None
