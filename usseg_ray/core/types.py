"""What flows between data, backbone, method and scoring. A method never sees a label.

`Images` (what the reader yields) -> backbone -> `Batch` (what a method sees) -> cluster scores.
Labels travel beside `Images` in `LabelledImages`, which only scoring opens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor, nn

from usseg_ray.core.config import Attention, JitterConfig, Origin, Settings
from usseg_ray.core.views import FixedView


@dataclass(frozen=True)
class Rows:
    """Which images, or crops of them, a batch shows: where stored features of it are found.

    Attributes:
        split: The split.
        view: How its images are shown.
        numbers: (B,) the images' numbers in the split.
        crops: (B,) which of an image's fixed crops; 0 for whole images.
        draws: (B,) which of a row's fixed photometric views, where those are asked for.
        begun: Gives their stored features, where these are on their way to the device already.
    """

    split: str
    view: FixedView
    numbers: Int64[Tensor, "B"]
    crops: Int64[Tensor, "B"]
    draws: Int64[Tensor, "B"] | None = None
    begun: Callable[[], "FeatureMap"] | None = None


@dataclass(frozen=True)
class Images:
    """Decoded images of one size.

    Attributes:
        ids: One name per image, unique in its split; keys the image's random draws.
        pixels: (B, 3, H, W) uint8, RGB.
        positive: (B, 3, H, W) uint8, a neighbour of each image, where `Needs.neighbours` asks.
        first: (B, 3, 2H, 2W) uint8, the first of two views, where `Needs.pair` asks; then `pixels`
            is the second. Neither is cropped yet.
        geometry: (B, 4) float64, the crop and mirroring of a pair (see `Pair`).
        rows: What is shown, where it comes again and again; without it features are computed.
            Where they are stored, and nobody looks at pixels, `pixels` has H = W = 0.
        positive_rows: The same of `positive`.
    """

    ids: tuple[str, ...]
    pixels: UInt8[Tensor, "B 3 H W"]
    positive: UInt8[Tensor, "B 3 H W"] | None = None
    first: UInt8[Tensor, "B 3 H2 W2"] | None = None
    geometry: Float64[Tensor, "B 4"] | None = None
    rows: Rows | None = None
    positive_rows: Rows | None = None


@dataclass(frozen=True)
class LabelledImages:
    """Images with the ground truth that scores them; methods are never given this type.

    Attributes:
        images: The images.
        labels: (B, H, W) int64, a class index or `ignore_index`; larger than the pixels where a
            protocol counts every label of an image that is shown smaller.
        numbers: The images' numbers in their split.
    """

    images: Images
    labels: Int64[Tensor, "B H2 W2"]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class BlockInput:
    """What goes into the transformer block that patch tokens are read of.

    Attributes:
        tokens: (B, T, D) float32, the prefix tokens (CLS, registers) before the patches.
        rope: (N, 2d) the rotary positions of the patches, as timm's blocks take them; `None` where
            the model has none.
    """

    tokens: Float[Tensor, "B T D"]
    rope: Tensor | None = None


@dataclass(frozen=True)
class FeatureMap:
    """A backbone's patch tokens.

    Attributes:
        tokens: (B, D, h, w) float32.
        saliency: (B, h, w) float32, last-block attention reduced to one number a patch; `None`
            unless a method needs it.
        local: (B, 9, h, w) float32, last-block attention to the 3x3 neighbours of every patch (see
            `ops.attention.local_weights`); `None` unless a method needs it.
        block_input: What the block before made of the image; `None` unless a method needs it.
        masks: (B, h, w) principal masks, from 1 on, 0 in none; `None` unless a method needs them
            and they are stored: they follow from tokens (`ops.principal_masks.find_masks`).
    """

    tokens: Float[Tensor, "B D h w"]
    saliency: Float[Tensor, "B h w"] | None = None
    local: Float[Tensor, "B 9 h w"] | None = None
    block_input: BlockInput | None = None
    masks: Int64[Tensor, "B h w"] | None = None


@dataclass(frozen=True)
class Pair:
    """Two views of the same crop, which differ in colour and in where they are cropped.

    Attributes:
        first: (B, 3, 2S, 2S) float32 in [0, 1]; the method crops these pixels.
        second: (B, 3, S, S) float32 in [0, 1]; the method crops its features.
        crop: (B, 3) float64 in [0, 1], on the CPU: side of the crop over side of the image, and
            where it lies between top and bottom, left and right.
        flip: (B,) whether the crop is mirrored, on the CPU.
    """

    first: Float[Tensor, "B 3 H2 W2"]
    second: Float[Tensor, "B 3 H W"]
    crop: Float64[Tensor, "B 3"]
    flip: Bool[Tensor, "B"]


@dataclass(frozen=True)
class Step:
    """Where in a stage a training batch stands; keys the draws of its loss.

    Attributes:
        index: Optimiser steps of the stage before this one.
        total: Optimiser steps of the whole stage.
        in_epoch: Optimiser steps of the epoch before this one.
    """

    index: int = 0
    total: int = 1
    in_epoch: int = 0


@dataclass(frozen=True)
class Batch:
    """What a method sees in training, clustering and prediction.

    Attributes:
        ids: One name per image.
        pixels: (B, 3, H, W) float32 in [0, 1], RGB.
        features: The frozen backbone's features of `pixels`.
        step: Where training stands; without meaning outside of it.
        augmented: Features of a photometric view of `pixels`, aligned with `features`; in training
            where `Needs.photometric` asks.
        positive: Features of a neighbour of each image; in training where `Needs.neighbours` asks.
        pair: Two views; in training where `Needs.pair` asks.
        crop_tokens: Gives the backbone's CLS tokens (n, D) of n boxes of these images, rows (image
            index, left, top, right, bottom) in pixels; where `Needs.crop_tokens` asks.
    """

    ids: tuple[str, ...]
    pixels: Float[Tensor, "B 3 H W"]
    features: FeatureMap
    step: Step = Step()
    augmented: FeatureMap | None = None
    positive: FeatureMap | None = None
    pair: Pair | None = None
    crop_tokens: Callable[[Int64[Tensor, "n 5"]], Float[Tensor, "n D"]] | None = None


class MaskRecipe(Settings):
    """All that decides an image's principal masks but its tokens.

    Attributes are the arguments of `ops.principal_masks.principal_masks`, and `context` that of
    `ops.context.averaged`, which tokens go through before; `None` for tokens as they are.
    """

    psi: float
    explained: float
    centre: bool
    context: float | None


@dataclass(frozen=True)
class Needs:
    """What the data path must give a method besides patch tokens.

    Attributes:
        attention: Reduction of last-block attention for `FeatureMap.saliency`.
        features: Whether the frozen backbone runs at all; floors on raw pixels and methods that
            train a network of their own need none.
        local_attention: Whether `FeatureMap.local` is wanted.
        block_input: Whether `FeatureMap.block_input` is wanted; it is never stored.
        crop_tokens: Whether `Batch.crop_tokens` is wanted.
        photometric: How the view behind `Batch.augmented` is made.
        neighbours: Images to draw `Batch.positive` from, the most similar of the training split.
        pair: How the two views of `Batch.pair` are coloured.
        masks: Which principal masks training looks at; it finds those that are not stored itself.
    """

    attention: Attention | None = None
    features: bool = True
    local_attention: bool = False
    block_input: bool = False
    crop_tokens: bool = False
    photometric: JitterConfig | None = None
    neighbours: int = 0
    pair: JitterConfig | None = None
    masks: MaskRecipe | None = None

    @property
    def storable(self) -> bool:
        """Whether features are read, and a store can hold all that is read of them."""
        return self.features and not self.block_input


@dataclass(frozen=True)
class FeatureSpec:
    """What a method must know of the features to build its heads.

    Attributes:
        dim: Channels of a token.
        patch_size: Pixels per token side.
        has_attention: Whether the backbone has attention, and a CLS token, to give.
        grid: Tokens along a side of a training crop.
        eval_grid: Tokens along a side of an evaluation frame.
        block: Makes a copy, with its weights, of the transformer block that tokens are read of
            (`features.block.ReadBlock`); `None` where tokens are not the output of one.
        trained: Builds a trained method on these features, frozen, with the weights of a file, or
            with none yet where a state is to follow (`engine.origin.trained_method`).
    """

    dim: int
    patch_size: int
    has_attention: bool
    grid: int = 0
    eval_grid: int = 0
    block: Callable[[], nn.Module] | None = field(default=None, compare=False)
    trained: Callable[[Origin, str | None], nn.Module] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class StepResult:
    """What one training step computed.

    Attributes:
        loss: Scalar to minimise.
        scalars: Detached scalars to log.
    """

    loss: Float[Tensor, ""]
    scalars: dict[str, Float[Tensor, ""]]
