"""What EQUSS can be set to."""

from pydantic import Field, model_validator

from usseg_ray.settings.stego import STEGOConfig


class EQUSSConfig(STEGOConfig):
    """Settings of EQUSS; defaults are the official ones for COCO-Stuff with ViT-S/8."""

    dim: int = Field(1024, ge=1, description="Channels of a code; official code: 1024.")
    subspaces: int = Field(
        32, ge=1, description="Groups of channels, each with its own codebook; official code: 32."
    )
    codebook_size: int = Field(
        256, ge=2, description="Vectors of a codebook; official code: 256, Cityscapes 32."
    )
    commitment: float = Field(
        0.25, ge=0, description="Of the pull of codes to their vectors; official code: 0.25."
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of channels dropped per image in training, the same ones for the head "
        "and for the loss; official code: 0.1.",
    )
    weight_intra: float = Field(
        0.47, ge=0, description="Of pairs within an image; official code, COCO ViT-S."
    )
    weight_inter: float = Field(
        0.45, ge=0, description="Of pairs with a neighbour; official code, COCO ViT-S."
    )
    weight_negative: float = Field(
        0.53, ge=0, description="Of pairs with another image; official code, COCO ViT-S."
    )
    shift_intra: float = Field(
        0.18, ge=-1, le=1, description="Feature cosine b above which codes attract; as its weight."
    )
    shift_negative: float = Field(
        0.23, ge=-1, le=1, description="The same for pairs with another image."
    )
    lr: float = Field(
        3e-4, gt=0, description="Adam's rate for head and codebooks; official code: 3e-4."
    )
    clip_norm: float = Field(
        10.0, gt=0, description="Gradient norm of head and codebooks; official code: 10."
    )
    cluster_lr: float = Field(
        3e-3, gt=0, description="Adam's rate for the cluster probe; official code: 3e-3."
    )

    @model_validator(mode="after")
    def _equal_parts(self) -> "EQUSSConfig":
        if self.dim % self.subspaces:
            raise ValueError(
                f"{self.dim} channels (dim) do not part into {self.subspaces} equal groups "
                "(subspaces): choose a multiple"
            )
        return self
