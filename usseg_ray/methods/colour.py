"""Floor: k-means on the mean colour of a patch and its height in the image.

Two features that need no network at all; on street scenes they reach the k-means score of an
ImageNet backbone.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from usseg_ray.core.config import MethodConfig
from usseg_ray.core.types import Batch, FeatureSpec
from usseg_ray.methods.position import PositionFloor
from usseg_ray.settings.colour import ColourConfig


class ColourFloor(PositionFloor):
    """Groups patches by mean RGB and height.

    Args:
        config: The method's settings.
        features: Not used; a floor sees pixels only.
        num_clusters: K.
        seed: Keys the sample and the starts.
    """

    name: ClassVar[str] = "colour"
    Config: ClassVar[type[MethodConfig]] = ColourConfig

    def __init__(
        self, config: ColourConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.height_weight = config.height_weight

    def dim(self, features: FeatureSpec) -> int:  # noqa: ARG002
        """Returns 4: red, green, blue and height."""
        return 4

    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns mean red, green and blue of every patch, then its weighted height."""
        place = super().describe(batch)
        colour = adaptive_avg_pool2d(batch.pixels, (place.shape[2], place.shape[3]))
        return torch.cat([colour, self.height_weight * place[:, :1]], dim=1)
