"""What methods share that learn a head on frozen tokens and then group its codes.

The groups are K centroids on the codes' sphere. Officially they are learnt beside the head, by
gradient from random directions, for thousands of steps (cluster probe); shorter runs end before
such centroids have spread over the codes. k-means on the finished codes, as for every other method
here, does not depend on how long a run was; published presets learn them. A run may do both and
keep the one that a criterion without labels prefers (`Method.clusterings`).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.types import Batch, FeatureSpec, StepResult
from usseg_ray.methods.base import CodeClassifier, Method, ParamGroup, Passes
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.heads import SegmentationHead
from usseg_ray.ops.kmeans import fit_shared
from usseg_ray.ops.sampling import PointSample, holding
from usseg_ray.settings.codes import CodeConfig

_POINTS_PER_CLUSTER = 500


@torch.no_grad()
def fit_centroids(method: Method, probe: ClusterProbe, passes: Passes, points: int) -> None:
    """Groups a sample of a method's codes of all training images by spherical k-means.

    Only images that a sampled code lies in are encoded.

    Args:
        method: Makes the codes.
        probe: Gets the centroids.
        passes: Fresh walks over this worker's training images.
        points: Codes of an image.

    Raises:
        UserError: The images give fewer distinct codes than K.
    """
    count, dim = probe.centroids.shape
    key, limit = (method.seed, method.name), _POINTS_PER_CLUSTER * count
    sample = PointSample(dim, limit, probe.centroids.device)
    for batch in passes(holding(passes.names(), points, limit, *key)):
        sample.add_maps(method.encode(batch), batch.ids, *key)
    result = fit_shared(sample, count, method.seed, spherical=True, noun="codes")
    probe.group(result.centroids)


class CodeMethod(CodeClassifier):
    """A head, the codes it makes of tokens, and K centroids among them.

    Attributes:
        config: The method's settings.
        head: Makes codes of tokens.
        probe: The centroids.
        positions: Codes of an evaluation frame.
    """

    centroids_in: ClassVar[tuple[str, ...]] = ("probe.centroids", "probe.grouped")
    config: CodeConfig
    head: SegmentationHead
    probe: ClusterProbe

    def __init__(
        self, config: CodeConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config = config
        self.positions = features.eval_grid**2

    @classmethod
    def untouched(cls, config: Any) -> frozenset[str]:  # noqa: ANN401
        """Names what k-means on the finished codes reads alone."""
        if config.clustering != "kmeans":
            return frozenset()
        return frozenset({"num_clusters", "method.context", "method.cluster_lr"})

    def make_probe(self, dim: int, generator: torch.Generator) -> ClusterProbe:
        """Makes the centroids of codes of so many channels."""
        both = self.config.clustering == "auto"
        return ClusterProbe(self.num_clusters, dim, generator, both=both)

    def probe_groups(self) -> list[ParamGroup]:
        """Lists the centroids if they are learnt."""
        if self.config.clustering == "kmeans":
            return []
        return [ParamGroup([*self.probe.parameters()], self.config.cluster_lr, "adam")]

    def with_probe(self, result: StepResult, codes: Float[Tensor, "B C h w"]) -> StepResult:
        """Adds the centroids' loss on detached codes to a step's, if they are learnt."""
        if self.config.clustering == "kmeans":
            return result
        cluster = self.probe.loss(codes.detach())
        scalars = {**result.scalars, "cluster": cluster.detach()}
        return StepResult(result.loss + cluster, scalars)

    def fit_clusters(self, passes: Passes) -> None:
        """Finds the centroids by k-means unless they are learnt alone; see `fit_centroids`."""
        if self.config.clustering != "probe":
            fit_centroids(self, self.probe, passes, self.positions)

    def clusterings(self) -> Mapping[str, Callable[[], None]]:
        """Names learnt centroids and those of k-means, where it has both."""
        return self.probe.kinds("probe")

    @torch.no_grad()
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the head's codes, without dropout."""
        codes: Tensor = self.head(batch.features.tokens)
        return codes

    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Scores each cluster by the cosine of code and centroid.

        The official codes upsample codes to the label's size and take cosines there; scoring
        upsamples these cosines, which differs between neighbouring tokens of unequal codes.

        Args:
            codes: (B, C, h, w) of any length.

        Returns:
            (B, K, h, w) cosines.
        """
        scores: Tensor = self.probe(codes)
        return scores
