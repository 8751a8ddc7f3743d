"""What the colour floor can be set to."""

from pydantic import Field

from usseg_ray.settings.position import PatchConfig


class ColourConfig(PatchConfig):
    """Settings of the colour floor."""

    height_weight: float = Field(
        1.0, ge=0, description="Weight of height (0 to 1) beside R, G, B (0 to 1); 0: colour alone."
    )
