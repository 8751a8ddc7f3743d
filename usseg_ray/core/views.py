"""How images are shown: in frames, through crops, and in the same way whenever they come again.

Plain values that reading, the feature store and jobs share. No torch here: they travel to many
processes that have none.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

from usseg_ray.core.config import JitterConfig

Crop = Literal["centre", "squash", "whole"]
Filter = Literal["bilinear", "nearest"]
CropPolicy = Literal["random", "centre", "five", "ten"]


@dataclass(frozen=True)
class Frame:
    """How a whole image is shown for clustering and scores.

    Attributes:
        size: What the short side becomes, pixels.
        crop: `centre` cuts the centre square, `whole` cuts nothing, `squash` makes a square of the
            whole image, whatever its shape.
        filter: Images are resampled so, as by Pillow: `bilinear` is antialiased, `nearest` is not.
            Labels always take the nearest pixel.
    """

    size: int
    crop: Crop = "centre"
    filter: Filter = "bilinear"


@dataclass(frozen=True)
class Crops:
    """How training crops are cut.

    Attributes:
        policy: At random, or one of the fixed places after the other, another in each walk.
        scale: Smallest share of an image's area in a random crop.
        flip: Whether crops may be mirrored.
        ratios: Sides of fixed crops over those of the image.
        filter: How crops are resampled.
        jpeg: Quality of the JPEG file that fixed crops pass through, or `None` for none.
    """

    policy: CropPolicy = "random"
    scale: float = 1.0
    flip: bool = False
    ratios: tuple[float, ...] = (0.5,)
    filter: Filter = "bilinear"
    jpeg: int | None = None


@dataclass(frozen=True)
class FixedView:
    """How the images of a split look whenever they come again; stored features are of one.

    Attributes:
        frame: What images, or crops, are brought to.
        crops: The fixed crops; whole images if unset.
        draws: Photometric views of each row, drawn once and for all, in place of the row itself; 0
            for the row.
        jitter: How strongly these change its colours.
    """

    frame: Frame
    crops: Crops | None = None
    draws: int = 0
    jitter: JitterConfig | None = None

    @classmethod
    def of(cls, frame: Frame, crops: Crops | None = None) -> Self:
        """Returns the view of whole images in a frame, or of fixed crops.

        Crops that differ only in what decides random crops are the same view.
        """
        return cls(frame, replace(crops, scale=1.0) if crops else None)

    def recoloured(self, draws: int, jitter: JitterConfig) -> Self:
        """Returns so many photometric views of each row of this one."""
        return replace(self, draws=draws, jitter=jitter)
