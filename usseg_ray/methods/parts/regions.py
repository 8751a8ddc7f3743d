"""Regions of tokens: pooling values over the tokens that share a label, and where these lie."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot


def pool_regions(
    values: Float[Tensor, "B N D"], labels: Int64[Tensor, "B N"], num_regions: int
) -> tuple[Float[Tensor, "B R D"], Int64[Tensor, "B R"]]:
    """Sums token values over the regions of every image.

    Args:
        values: (B, N, D), one vector per token.
        labels: (B, N), the region of every token, below `num_regions`.
        num_regions: R.

    Returns:
        (B, R, D) sums and (B, R) token counts; both 0 for a region without tokens.
    """
    members = one_hot(labels, num_regions)
    return members.mT.to(values.dtype) @ values, members.sum(1)


def bounding_box(mask: Bool[Tensor, "h w"]) -> Int64[Tensor, "4"]:
    """Finds the smallest box around a region.

    Args:
        mask: (h, w) True in the region, at least once.

    Returns:
        (left, top, right, bottom) in tokens, right and bottom exclusive.
    """
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
