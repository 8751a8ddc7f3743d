"""Principal masks of an entry's tokens, found once and kept beside them as a part of the entry.

They follow from the tokens that are stored: whoever looks for masks in these finds the same ones.
"""

from collections.abc import Callable

import numpy as np
import torch

from usseg_ray.core.types import MaskRecipe
from usseg_ray.features.store.blocks import missing_shards, write_feature_shard
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.recipe import masks_part
from usseg_ray.ops.principal_masks import find_masks

BATCH_ROWS = 32


def write_masks(
    entry: FeatureEntry, recipe: MaskRecipe, on_rows: Callable[[int], None] = lambda _: None
) -> None:
    """Finds and writes the masks that an entry lacks; whoever calls has its building lock.

    Args:
        entry: Opened with its tokens.
        recipe: Which masks.
        on_rows: Told how many rows were looked at, after each few.
    """
    part, manifest, threads = masks_part(recipe), entry.manifest, torch.get_num_threads()
    # Matrices of a few tokens spend their time on the threads, where there are several.
    torch.set_num_threads(1)
    try:
        for shard in missing_shards(entry.folder, manifest, (part,)):
            first, last = (number * manifest.rows_per_image for number in manifest.images_of(shard))
            rows, found = np.arange(first, last), []
            for few in np.split(rows, range(BATCH_ROWS, len(rows), BATCH_ROWS)):
                tokens = entry.feature_map(few, torch.device("cpu")).tokens
                # Numbers up to 254 are the same in float16, which shards are of.
                found.append(find_masks(tokens, recipe).half().numpy())
                on_rows(len(few))
            write_feature_shard(entry.folder, part, shard, entry.ids(rows), np.concatenate(found))
    finally:
        torch.set_num_threads(threads)
