"""What CAUSE can be set to."""

from typing import Literal

from pydantic import Field

from usseg_ray.core.config import MethodConfig
from usseg_ray.settings.codes import Clustering


class CAUSEConfig(MethodConfig):
    """Settings of CAUSE; defaults are those of the official code for COCO-Stuff."""

    head: Literal["mlp", "tr"] = Field(
        "mlp",
        description="CAUSE-MLP, or CAUSE-TR, whose crops and frames must have the same size.",
    )
    num_codes: int = Field(2048, ge=2, description="Codes of the clusterbook; official code: 2048.")
    dim: int = Field(90, ge=1, description="Channels of a head's code; official code: 90.")
    projection_dim: int = Field(2048, ge=1, description="Contrasted channels; official code: 2048.")
    ffn_dim: int = Field(2048, ge=1, description="Feed-forward width of `tr`; official code: 2048.")
    window: int = Field(
        4,
        ge=1,
        description="One token of every window of this side enters the losses; official code: 4. "
        "Grids that hold fewer than two windows a side get smaller ones.",
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="In teacher and student while training; official code: 0.1."
    )
    clusterbook_temperature: float = Field(
        0.1, gt=0, description="Agreement on a code is tanh(product / this); official code: 0.1."
    )
    temperature: float = Field(0.07, ge=0.03, description="Of the contrast; official code: 0.07.")
    positive_above: float = Field(
        0.3, ge=-1, lt=1, description="Cosine of codes that attract; official code: 0.3."
    )
    negative_below: float = Field(
        0.1, ge=-1, le=1, description="Cosine of codes that repel; official code: 0.1."
    )
    bank_capacity: int = Field(
        100, ge=1, description="Bank entries of a code; official code: 100 (full: 1.7 GB)."
    )
    bank_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of a code's tokens that enters the bank, rounded down; official: 0.5.",
    )
    ema_decay: float = Field(0.99, ge=0, lt=1, description="Of the teacher; official code: 0.99.")
    clusterbook_epochs: int = Field(1, ge=1, description="Of the first stage; official code: 1.")
    probe_epochs: int | None = Field(
        None, ge=1, description="Of the last stage; unset: 1 (`mlp`) or 5 (`tr`), the official."
    )
    clustering: Clustering = Field(
        "kmeans",
        description="Find the centroids by k-means on the codes before the score, or learn them "
        "in the last stage (`probe`, official), which is left out otherwise; auto: both, and keep "
        "those with the better label-free criterion.",
    )
    clusterbook_lr: float = Field(1e-3, gt=0, description="Adam's rate in stage 1; see `lr`.")
    lr: float = Field(
        1e-3,
        gt=0,
        description="Adam's rate in stage `concepts`, for any number of workers. The official "
        "code takes 1e-3 times the number of GPUs, for GPUs that do not exchange gradients: its "
        "4-GPU recipe is 4e-3 at batch 16.",
    )
    probe_lr: float = Field(1e-3, gt=0, description="Adam's rate in the last stage; see `lr`.")
    weight_decay: float = Field(
        1e-4, ge=0, description="L2 in stage `concepts`; official code: 1e-4, Cityscapes 0."
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="Gradient norm in stage `concepts`; unset: 0.1 (`mlp`) or 2 (`tr`), the "
        "official code's for COCO-Stuff; Cityscapes: 1.",
    )
