"""Where the largest value lies: `Tensor.argmax`, at the speed that memory is read."""

from jaxtyping import Int64
from torch import Tensor


def argmax(values: Tensor, dim: int) -> Int64[Tensor, "..."]:
    """Finds the first of the largest values along a dimension, as `values.argmax(dim)` does.

    On a CPU that reads one value after the other, across memory where `dim` is not the last one;
    `max` reads many at once: about 2 times as fast along the last dimension, 3 to 7 times over the
    channels of maps (docs/performance.md).

    Args:
        values: Of any shape and floating type.
        dim: Is gone from the result.
    """
    return values.max(dim).indices
