"""Ray's tasks and actors as the way to compute features: tasks read and decode, actors compute.

In place of `features.store.extraction.features_here`. Rows come back in order, so the process that
asked writes whole shards one after the other and holds one of them at a time.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from usseg_ray.cluster.ray_stream import PieceSource, read_task, users_mistakes
from usseg_ray.cluster.worker_pool import Work, cluster_pool, working
from usseg_ray.data.blocks import Block, join, regroup
from usseg_ray.data.plans import Piece
from usseg_ray.features.store.extraction import BATCH_ROWS, Extractor, FeatureRequest, Features


def ray_features(device: str) -> Features:
    """Computes features on the cluster that this process has joined.

    Args:
        device: `cpu`, or `cuda` on all of its GPUs.
    """

    def features(wanted: FeatureRequest, pieces: list[Piece]) -> Iterator[Block]:
        pool = cluster_pool(device)
        source = PieceSource(wanted.root, pieces, wanted.entry.recipe.showing)
        read = read_task.options(num_cpus=pool.read_cpus)
        # What an actor computes and its next one, and as many as may be read at a time.
        calls = 2 + int(pool.reading / pool.read_cpus / pool.actors)
        make = partial(_computing, wanted, device, pool.threads)
        with working(make, pool, pool.actors, calls) as actors:
            for task in source.tasks():
                actors.submit(lambda actor, task: actor.work.remote(read.remote(task)), task)
            while actors.has_next():
                with users_mistakes():
                    block = actors.get_next()
                yield block

    return features


def _computing(wanted: FeatureRequest, device: str, threads: int) -> Work[Block, Block]:
    extractor = Extractor(wanted, device, threads)

    def compute(blocks: Sequence[Block]) -> Block:
        return join([extractor(block) for block in regroup(blocks, BATCH_ROWS)])

    return compute
