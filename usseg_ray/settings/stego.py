"""What STEGO can be set to."""

from pydantic import Field

from usseg_ray.settings.codes import CodeConfig


class STEGOConfig(CodeConfig):
    """Settings of STEGO; defaults are the official ones for COCO-Stuff with ViT-S/8."""

    dim: int = Field(70, ge=1, description="Channels of a code; official code: 70.")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of channels dropped per image in training, by itself in both branches "
        "of the head and in the features that the loss compares; official code: 0.1.",
    )
    neighbours: int = Field(
        7, ge=1, description="Most similar images that a positive is drawn from; official code: 7."
    )
    feature_samples: int = Field(
        11, ge=1, description="Side of the grid of sampled positions; official code: 11."
    )
    negatives: int = Field(
        5, ge=1, description="Other images that each image is compared with; official code: 5."
    )
    weight_intra: float = Field(
        0.67, ge=0, description="Of pairs within an image; official code, COCO ViT-S."
    )
    weight_inter: float = Field(
        0.25, ge=0, description="Of pairs with a neighbour; official code, COCO ViT-S."
    )
    weight_negative: float = Field(
        0.63, ge=0, description="Of pairs with another image; official code, COCO ViT-S."
    )
    shift_intra: float = Field(
        0.08, ge=-1, le=1, description="Feature cosine b above which codes attract; as its weight."
    )
    shift_inter: float = Field(
        0.02, ge=-1, le=1, description="The same for pairs with a neighbour."
    )
    shift_negative: float = Field(
        0.66, ge=-1, le=1, description="The same for pairs with another image."
    )
    pointwise: bool = Field(
        True, description="Centre feature cosines (paper: spatial centring); official code: yes."
    )
    zero_clamp: bool = Field(
        True, description="Negative code cosines count as 0 (paper: 0-clamp); official code: yes."
    )
    stabilise: bool = Field(
        False, description="Code cosines above 0.8 count as 0.8; official code: no (`stabalize`)."
    )
    lr: float = Field(5e-4, gt=0, description="Adam's rate for the head; official code: 5e-4.")
