"""Nearest neighbours of images by cosine: the table that positives are drawn from.

Before STEGO trains, every image is described by the mean of its frozen tokens, and the most
similar images of the training split are listed. The search is exact: a block of rows at a time
against all rows, so memory grows with the number of images and not with its square.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.core.errors import UserError


@torch.no_grad()
def nearest_neighbours(
    rows: Float[Tensor, "N D"], k: int, *, block: int = 1024
) -> Int64[Tensor, "N k"]:
    """Lists for every row the k rows of largest cosine, itself first.

    Args:
        rows: (N, D), any length, any device.
        k: Neighbours, the row itself included.
        block: Rows to compare with all others at a time; memory is `block` * N * 4 bytes.

    Returns:
        (N, k) row numbers, most similar first. A row is its own first neighbour, also where others
        equal it.

    Raises:
        UserError: There are fewer than k rows.

    Reference:
        STEGO (ICLR 2022), official code: 30 neighbours by the dot product of unit mean tokens.
    """
    if k > len(rows):
        raise UserError(
            f"{k - 1} neighbours of each image are asked for, but there are only {len(rows)} "
            "images. Lower method.neighbours or add images to the training split."
        )
    units = normalize(rows, dim=1)
    tables = []
    for start in range(0, len(units), block):
        cosines = units[start : start + block] @ units.T
        # Above all cosines, lest a duplicate of the image come before it.
        cosines.diagonal(start).fill_(2.0)
        tables.append(cosines.topk(k, dim=1).indices)
    return torch.cat(tables)
