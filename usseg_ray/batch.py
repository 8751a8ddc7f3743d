"""What flows between data, backbone, method and scoring. A method never sees a label.

`Images` (what the reader yields) -> backbone -> `Batch` (what a method sees) -> `LabelMap` scores.
Labels travel beside `Images` in `LabelledImages`, which only scoring opens.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Attention = Literal["cls", "minhead"]
"""How last-block attention is reduced to one number a patch (see `ops.attention`)."""


@dataclass(frozen=True)
class Images:
    """Decoded images of one size.

    Attributes:
        ids: One name per image, unique in its split; keys the image's random draws.
        pixels: (B, 3, H, W) uint8, RGB.
    """

    ids: tuple[str, ...]
    pixels: UInt8[Tensor, "B 3 H W"]


@dataclass(frozen=True)
class LabelledImages:
    """Images with the ground truth that scores them; methods are never given this type.

    Attributes:
        images: The images.
        labels: (B, H, W) int64, a class index or `ignore_index`.
    """

    images: Images
    labels: Int64[Tensor, "B H W"]


@dataclass(frozen=True)
class FeatureMap:
    """A backbone's patch tokens.

    Attributes:
        tokens: (B, D, h, w) float32.
        saliency: (B, h, w) float32, last-block attention reduced to one number a patch; `None`
            unless a method needs it.
    """

    tokens: Float[Tensor, "B D h w"]
    saliency: Float[Tensor, "B h w"] | None = None


@dataclass(frozen=True)
class Batch:
    """What a method sees in training, clustering and prediction.

    Attributes:
        ids: One name per image.
        pixels: (B, 3, H, W) float32 in [0, 1], RGB.
        features: The frozen backbone's features of `pixels`.
    """

    ids: tuple[str, ...]
    pixels: Float[Tensor, "B 3 H W"]
    features: FeatureMap


@dataclass(frozen=True)
class Needs:
    """What the data path must give a method besides patch tokens.

    Attributes:
        attention: Reduction of last-block attention for `FeatureMap.saliency`.
        features: Whether the backbone runs at all; floors on raw pixels need none.
    """

    attention: Attention | None = None
    features: bool = True


@dataclass(frozen=True)
class FeatureSpec:
    """What a method must know of the features to build its heads.

    Attributes:
        dim: Channels of a token.
        patch_size: Pixels per token side.
        has_attention: Whether the backbone has attention to give.
    """

    dim: int
    patch_size: int
    has_attention: bool


@dataclass(frozen=True)
class StepResult:
    """What one training step computed.

    Attributes:
        loss: Scalar to minimise.
        scalars: Detached scalars to log.
    """

    loss: Float[Tensor, ""]
    scalars: dict[str, Float[Tensor, ""]]
