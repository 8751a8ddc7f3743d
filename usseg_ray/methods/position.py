"""Floor: k-means on where a patch lies, blind to the image.

On street scenes, where the sky is up and the road is down, this reaches scores that a method must
beat before its own score means anything.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.config import MethodConfig
from usseg_ray.core.types import Batch, FeatureSpec
from usseg_ray.methods.base import Needs
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.settings.position import PatchConfig


class PositionFloor(KMeans):
    """Groups patches by their place in the image.

    Args:
        config: The method's settings.
        features: Not used; a floor sees pixels only.
        num_clusters: K.
        seed: Keys the sample and the starts.
    """

    name: ClassVar[str] = "position"
    Config: ClassVar[type[MethodConfig]] = PatchConfig

    def __init__(
        self, config: PatchConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.patch_size = config.patch_size

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401, ARG003
        """Needs no backbone."""
        return Needs(features=False)

    def dim(self, features: FeatureSpec) -> int:  # noqa: ARG002
        """Returns 2: row and column."""
        return 2

    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the centre of every patch as (y, x), each in (0, 1) of the image's side."""
        size, _, height, width = batch.pixels.shape
        rows = _centres(height, self.patch_size, batch.pixels)
        columns = _centres(width, self.patch_size, batch.pixels)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return grid.expand(size, -1, -1, -1)


def _centres(side: int, patch_size: int, like: Tensor) -> Float[Tensor, "n"]:
    count = -(-side // patch_size)
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count
