"""k-means on backbone tokens: what the features give before any learning.

Every score of a learnt method stands beside this one. The class is also the frame of the floors on
raw pixels (`position`, `colour`), which only change what describes a token.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.config import MethodConfig
from usseg_ray.core.types import Batch, FeatureSpec
from usseg_ray.methods.base import CodeClassifier, Passes, Stage
from usseg_ray.ops.kmeans import fit_shared, similarity
from usseg_ray.ops.sampling import PointSample
from usseg_ray.settings.kmeans import KMeansConfig, SamplingConfig


class KMeans(CodeClassifier):
    """Groups tokens of all training images by k-means; nothing is learnt.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys the sample and the starts.
    """

    name: ClassVar[str] = "kmeans"
    Config: ClassVar[type[MethodConfig]] = KMeansConfig
    stages: ClassVar[tuple[Stage, ...]] = ()
    centroids_in: ClassVar[tuple[str, ...]] = ("centroids",)
    centroids: Tensor

    def __init__(
        self, config: SamplingConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.sampling = config
        self.spherical = isinstance(config, KMeansConfig) and config.spherical
        self.register_buffer("centroids", torch.zeros(num_clusters, self.dim(features)))

    def dim(self, features: FeatureSpec) -> int:
        """Returns the number of channels that describe a token."""
        return features.dim

    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns what describes every token: here the token itself."""
        return batch.features.tokens.detach()

    @torch.no_grad()
    def fit_clusters(self, passes: Passes) -> None:
        """Clusters a sample of all tokens into K groups.

        Args:
            passes: Fresh walks over this worker's training images.

        Raises:
            UserError: The images give fewer distinct tokens than K.
        """
        limit = self.sampling.points_per_cluster * self.num_clusters
        sample = PointSample(self.centroids.shape[1], limit, self.centroids.device)
        for batch in passes():
            sample.add_maps(self.encode(batch), batch.ids, self.seed, self.name)
        result = fit_shared(
            sample,
            self.num_clusters,
            self.seed,
            spherical=self.spherical,
            restarts=self.sampling.restarts,
            noun="tokens",
        )
        self.centroids.copy_(result.centroids)

    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Returns the cosine, or minus the squared distance, to every centroid."""
        size, _, height, width = codes.shape
        rows = codes.flatten(2).mT.flatten(0, 1)
        scores = similarity(rows, self.centroids, spherical=self.spherical)
        return scores.view(size, height, width, self.num_clusters).permute(0, 3, 1, 2)
