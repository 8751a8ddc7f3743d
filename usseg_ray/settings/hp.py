"""What HP can be set to."""

from typing import Literal

from pydantic import Field

from usseg_ray.core.config import JitterConfig
from usseg_ray.settings.codes import CodeConfig

Weighting = Literal["joint", "separate"]
"""Whether task-specific positives join the task-agnostic ones or are averaged by themselves."""


class HPConfig(CodeConfig):
    """Settings of HP; defaults are the official ones for COCO-Stuff with ViT-S/8.

    Those of Cityscapes and Potsdam, where they differ, are named in the descriptions.
    """

    dim: int = Field(512, ge=1, description="Channels of a code; Potsdam: 256.")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of channels dropped per image, at seven places."
    )
    temperature: float = Field(
        0.8, ge=0.05, description="tau of the contrastive loss; Cityscapes: 0.6, Potsdam: 0.4."
    )
    denominator_share: float = Field(
        0.02, gt=0, le=1, description="rho, pairs that join denominators by chance; Potsdam: 1."
    )
    consistency_weight: float = Field(
        0.05, ge=0, description="alpha, of the photometric consistency; Potsdam: 0."
    )
    photometric: JitterConfig = Field(
        JitterConfig(), description="The second view's colours; defaults as in the official code."
    )
    pool_size: int = Field(2048, ge=1, description="Rows of each reference pool; Potsdam: 1024.")
    renewal_steps: int | None = Field(
        100,
        ge=1,
        description="Steps of an epoch between renewals of the task-specific pool; the others: 20. "
        "Unset: ten pools in a run, whatever its epochs.",
    )
    decay: float = Field(
        0.99, ge=0, le=1, description="Share of the teacher kept in a step; the others: 0.999."
    )
    ramp_start: int = Field(
        1000, ge=0, description="Steps with lambda = 0, see `task_weight`; the others: 50, 100."
    )
    reweighting: bool = Field(
        True, description="Weigh an anchor by its share of the image's positives; official: yes."
    )
    weighting: Weighting = Field(
        "joint", description="`separate` averages each kind by itself: an unused official mode."
    )
    affinity: Literal["attention", "cosine"] = Field(
        "attention",
        description="What mixes codes of neighbours: last-block attention or, for backbones that "
        "have none (not in HP), cosines of tokens.",
    )
    affinity_temperature: float = Field(
        0.1, gt=0, description="With `cosine`, attention logits are cosines over this; assumed."
    )
    lr: float = Field(5e-4, gt=0, description="AdamW's rate for the head; official code.")
    weight_decay: float = Field(0.1, ge=0, description="Of the head, biases too; official code.")
    clip_norm: float = Field(10.0, gt=0, description="Gradient norm of the head; official code.")
    projection_lr: float = Field(5e-4, gt=0, description="Adam's, projection; official code.")
