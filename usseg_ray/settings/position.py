"""What floors on a grid of pixel patches can be set to."""

from pydantic import Field

from usseg_ray.settings.kmeans import SamplingConfig


class PatchConfig(SamplingConfig):
    """Settings of a floor on a grid of pixel patches."""

    patch_size: int = Field(8, ge=1, description="Side of a patch, pixels.")
