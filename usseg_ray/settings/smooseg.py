"""What SmooSeg can be set to."""

from typing import Literal

from pydantic import Field

from usseg_ray.core.config import MethodConfig


class SmooSegConfig(MethodConfig):
    """Settings of SmooSeg; defaults are the official ones for COCO-Stuff with ViT-S/8."""

    dim: int = Field(64, ge=1, description="Channels of a code; official code: 64.")
    dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of channels dropped per image in training, by itself in both branches "
        "of the head and in the features that the loss compares; official code: 0.2.",
    )
    temperature: float = Field(
        0.1, gt=0, description="Of the teacher's probabilities; official code: 0.1."
    )
    decay: float = Field(
        0.998, ge=0, le=1, description="Share of the teacher kept in a step; official code: 0.998."
    )
    weight_intra: float = Field(
        1.0, ge=0, description="Of smoothness within an image; official code: 1."
    )
    weight_negative: float = Field(
        1.0, ge=0, description="Of smoothness with another image; official code: 1."
    )
    weight_data: float = Field(1.0, ge=0, description="Of the data term; official code: 1.")
    shift_intra: float = Field(
        -0.02,
        ge=-1,
        le=1,
        description="Feature cosine b above which labels shall agree; official code, COCO ViT-S.",
    )
    shift_negative: float = Field(
        0.48, ge=-1, le=1, description="The same for pairs with another image."
    )
    clustering: Literal["prototypes", "kmeans", "auto"] = Field(
        "prototypes",
        description="What clusters are: the teacher's prototypes (official), or groups of codes by "
        "k-means before every score; auto: those with the better label-free criterion.",
    )
    pointwise: bool = Field(
        True, description="Centre feature cosines as STEGO does; official code: yes."
    )
    lr: float = Field(1e-4, gt=0, description="Adam's rate for the head; official code: 1e-4.")
    prototype_lr: float = Field(
        5e-4, gt=0, description="Adam's rate for the student prototypes; official code: 5e-4."
    )
