"""The decoder of a feature pyramid: four stages of a network become one map at a quarter size."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils import skip_init

from usseg_ray.ops.heads import initialise_like_torch


class PyramidDecoder(nn.Module):
    """Projects every stage to the same width and adds them up from coarse to fine.

    Args:
        channels: Channels of the stages, finest first.
        dim: Channels of the result.
        generator: Draws the initial weights; equal on all workers.

    Reference:
        PiCIE (CVPR 2021), official code: 1x1 convolutions with bias, no smoothing, norm or ReLU.
    """

    def __init__(self, channels: Sequence[int], dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(skip_init(nn.Conv2d, width, dim, 1) for width in channels)
        initialise_like_torch(self, generator)

    def forward(self, stages: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B C h w"]:
        """Joins the stages.

        Args:
            stages: (B, channels, h, w) each, finest first.

        Returns:
            (B, dim, h, w) at the finest stage's size.
        """
        *finer, coarsest = [
            lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)
        ]
        joined: Tensor = coarsest
        for projected in reversed(finer):
            size = projected.shape[2:]
            joined = interpolate(joined, size=size, mode="bilinear", align_corners=False)
            joined = joined + projected
        return joined
