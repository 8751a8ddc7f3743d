"""Means over the images of all workers, as losses whose mean over the workers is that mean.

The engine averages gradients over workers. A weighted mean is a ratio, and the mean of ratios is
not the ratio of means: the denominator is added up first.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from usseg_ray.distributed import all_sum, world_size


def weighted_cross_entropy(
    logits: Float[Tensor, "B K h w"], labels: Int64[Tensor, "B h w"], weights: Float[Tensor, "K"]
) -> Float[Tensor, ""]:
    """Computes the weighted mean cross-entropy over the joint batch.

    Args:
        logits: (B, K, h, w).
        labels: (B, h, w).
        weights: (K,) weight of a cell by its label.

    Returns:
        This worker's part times the number of workers, nats; 0 where all weights are 0.
    """
    part = cross_entropy(logits, labels, weights, reduction="sum")
    total = all_sum(weights[labels].sum())
    return part * world_size() / total.clamp(min=torch.finfo(total.dtype).tiny)


def mean_squared_difference(
    first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Computes the mean squared difference over the joint batch.

    Args:
        first: Any shape.
        second: The same shape.

    Returns:
        This worker's part times the number of workers.
    """
    part = (first - second).square().sum()
    return part * world_size() / all_sum(part.new_tensor(float(first.numel()))).clamp(min=1)
