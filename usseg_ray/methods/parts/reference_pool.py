"""A pool of reference patches: what HP's patches must be more alike than to be hidden positives.

A pool holds one patch of each of many images, drawn anew when it is filled. Which patches these are
and in which order they lie depends neither on the order of the images nor on how workers share
them, so the pool is the same on every worker.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.core.distributed import row_counts, shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, Step
from usseg_ray.methods.parts.contrastive import Candidates, best_match
from usseg_ray.ops.sampling import PointSample

_IMAGES_AT_A_TIME = 32
_POOLS = 10
"""In a run, where nothing says after how many steps a pool is renewed."""
# Far above the epochs that key the walks of training.
_FIRST_WALK = 1_000_000


class ReferencePool(nn.Module):
    """Unit rows, kept as a buffer; zeros until it is first filled.

    Args:
        size: Rows.
        dim: Channels of a row.

    Reference:
        HP (CVPR 2023), reference pools. The official code keeps and compares them in float16; here
        they are float32, so a similarity next to a threshold may fall on its other side.
    """

    rows: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))

    def sample(self) -> PointSample:
        """Starts a sample to fill the pool with; give it images by `add_patches`."""
        return PointSample(self.rows.shape[1], len(self.rows), self.rows.device)

    def fill(self, sample: PointSample) -> None:
        """Replaces all rows; all workers call it together.

        Args:
            sample: This worker's patches; those of all workers are at least as many as rows.
        """
        self.rows.copy_(normalize(sample.gather(), dim=1))

    def candidates(self, maps: Float[Tensor, "B C h w"]) -> Candidates:
        """Compares every patch with the pool.

        Args:
            maps: (B, C, h, w), not normalised.

        Returns:
            B h w unit rows, image by image and row by row, with their best matches.
        """
        rows = normalize(patch_rows(maps), dim=1)
        return Candidates(rows, best_match(rows, self.rows))


def is_due(step: Step, every: int | None) -> bool:
    """Says whether a pool is filled before a step; before a run's first one it always is.

    Args:
        step: Where training stands.
        every: Steps between renewals, counted anew in every epoch as in the official code: where
            an epoch has no more steps there are none. Unset: ten pools, evenly over the run.
    """
    if step.index == 0:
        return True
    if every is None:
        number, before = (index * _POOLS // step.total for index in (step.index, step.index - 1))
        return number > before
    return step.in_epoch > 0 and step.in_epoch % every == 0


def fill_pools(
    pools: Mapping[str, ReferencePool],
    crops: Callable[[int, int], Iterator[Batch]],
    maps: Callable[..., Mapping[str, Tensor]],
    step: int,
    *key: int | str,
    patches: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Fills pools with one patch of each image of a shuffled walk; all workers call it together.

    Args:
        pools: By name.
        crops: Takes the key of a walk and a batch size over all workers, see `Passes.crops`.
        maps: Takes a batch and a key, and gives the (B, C, h, w) map of each pool.
        step: Optimiser step, keys the walks.
        key: What the pools are for.
        patches: Of each pool, image -> its patch, counted row by row; drawn evenly if unset.

    Raises:
        UserError: A walk has no images.
    """
    samples = {name: pool.sample() for name, pool in pools.items()}
    size = max(len(pool.rows) for pool in pools.values())
    for walk, batch in pool_walks(crops, size, step):
        found = maps(batch, *key, walk)
        for name, sample in samples.items():
            chosen = None if patches is None else patches[name]
            add_patches(sample, found[name], batch.ids, *key, walk, name, patches=chosen)
    for name, pool in pools.items():
        pool.fill(samples[name])


def pool_walks(
    crops: Callable[[int, int], Iterator[Batch]], size: int, step: int
) -> Iterator[tuple[int, Batch]]:
    """Walks over shuffled crops until the workers together have seen enough to fill a pool.

    Args:
        crops: Takes the key of a walk and a batch size over all workers, see `Passes.crops`.
        size: Images to see; the walk starts again, under another key, where it has fewer.
        step: Optimiser step, keys the walks.

    Yields:
        The walk's key and this worker's part of a batch, where it has one.

    Raises:
        UserError: A walk has no images.
    """
    seen, walk = 0, _FIRST_WALK + step
    while seen < size:
        before = seen
        for batch in crops(walk, _IMAGES_AT_A_TIME):
            seen += sum(row_counts(batch.features.tokens))
            if batch.ids:
                yield walk, batch
            if seen >= size:
                return
        if seen == before:
            raise UserError("There are no training images to fill reference pools from.")
        walk += _FIRST_WALK


def patch_rows(maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "N C"]:
    """Lists the patches of a batch, image by image and row by row: N = B h w."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def add_patches(
    sample: PointSample,
    maps: Float[Tensor, "B C h w"],
    ids: Sequence[str],
    *key: int | str,
    patches: Mapping[str, int] | None = None,
) -> None:
    """Offers one patch of each image to a pool's sample.

    Args:
        sample: From `ReferencePool.sample`.
        maps: (B, C, h, w).
        ids: One name per image.
        key: What the pool is for, for example `(seed, "hp", stage, step, walk)`.
        patches: Image -> its patch, counted row by row; drawn evenly if unset.
    """
    for own, name in zip(maps.flatten(2), ids, strict=True):
        if patches is None:
            generator = shared_generator(*key, "patch", name)
            patch = int(torch.randint(own.shape[1], (), generator=generator))
        else:
            patch = patches[name]
        sample.add(own[None, :, patch], *key, name)
