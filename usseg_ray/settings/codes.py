"""What all methods can be set to that learn a head and group its codes."""

from typing import Literal

from pydantic import Field

from usseg_ray.core.config import MethodConfig

Clustering = Literal["probe", "kmeans", "auto"]


class CodeConfig(MethodConfig):
    """How codes are grouped."""

    clustering: Clustering = Field(
        "kmeans",
        description="Find the centroids by k-means on the codes before every score, or learn them "
        "beside the head (`probe`, official; takes thousands of steps); auto: both, and keep those "
        "with the better label-free criterion.",
    )
    cluster_lr: float = Field(
        5e-3, gt=0, description="Adam's rate for the cluster probe; official code: 5e-3."
    )
