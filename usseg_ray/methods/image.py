"""Floor: one label for a whole image, by k-means on mean tokens.

Where images are of one thing each, knowing which image it is reaches far: what does not beat this
floor has told images apart rather than what is in them.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.types import Batch
from usseg_ray.methods.kmeans import KMeans


class ImageFloor(KMeans):
    """Groups images by the mean of their tokens."""

    name: ClassVar[str] = "image"

    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the mean token of the image at every position."""
        tokens = super().describe(batch)
        return tokens.mean((2, 3), keepdim=True).expand_as(tokens)
