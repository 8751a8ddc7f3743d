"""What PPAP can be set to."""

from typing import Literal

from pydantic import Field

from usseg_ray.settings.codes import CodeConfig


class PPAPConfig(CodeConfig):
    """Settings of PPAP; defaults are the official ones for COCO-Stuff with ViT-S/8.

    Those of the other official runs, where they differ, are in the presets.
    """

    block: Literal["copy", "new"] = Field(
        "copy",
        description="What learns: a copy of the ViT block that tokens are read of, or, for any "
        "backbone (not in PPAP), a new block on top that leaves tokens as they are at first.",
    )
    positive: float = Field(
        0.55, ge=-1, le=1, description="Phi, token cosine above which patches are positives."
    )
    negative: float = Field(
        0.20, ge=-1, le=1, description="Psi, token cosine below which patches are negatives."
    )
    rounds: int = Field(2, ge=0, description="Times that proxies move; official: 1 to 3.")
    positive_step: float = Field(
        3.0, gt=0, description="sigma_pos: Phi falls by what a proxy moves over this."
    )
    negative_step: float = Field(
        3.0, gt=0, description="sigma_amb: Psi rises by what a proxy moves over this."
    )
    split: int = Field(
        16,
        ge=1,
        description="One in so many patches of an image is an anchor; official: 16, and 4 for "
        "ViT-S/16.",
    )
    temperature: float = Field(0.8, ge=0.05, description="tau of the loss; official: 0.07 to 0.8.")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of channels dropped per image of the tokens that positives are found "
        "by, and nowhere else; official code: 0.1.",
    )
    lr: float = Field(
        1e-3, gt=0, description="AdamW's rate for block and projection; official: 5e-4 or 1e-3."
    )
    weight_decay: float = Field(
        0.1, ge=0, description="Of both, biases too; official code: 0.1, 0.01 or 0 (Adam)."
    )
    clip_norm: float = Field(10.0, gt=0, description="Gradient norm of both; official code: 10.")
