"""Regions of tokens: pooling values over the tokens that share a label."""

from jaxtyping import Float, Int64
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
