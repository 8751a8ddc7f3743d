"""What k-means can be set to: on tokens, and on whatever floors describe an image by."""

from pydantic import Field

from usseg_ray.core.config import MethodConfig


class SamplingConfig(MethodConfig):
    """What k-means on single tokens costs."""

    points_per_cluster: int = Field(
        500, ge=1, description="Tokens to cluster per group, sampled evenly over the data set."
    )
    restarts: int = Field(
        10, ge=1, description="Starts of k-means; the one with the least inertia stays."
    )


class KMeansConfig(SamplingConfig):
    """Settings of k-means on backbone tokens."""

    spherical: bool = Field(True, description="Cluster directions (cosine) instead of positions.")
