"""ACSeg's Adaptive Concept Generator: prototypes of the data set become concepts of an image."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from usseg_ray.core.config import MethodConfig
from usseg_ray.methods.parts.transformer import Activation, DecoderBlock, Norm


class GeneratorConfig(MethodConfig):
    """Settings of the generator; "assumed" marks what the known sources leave open."""

    num_prototypes: int = Field(
        5, ge=1, le=256, description="Most concepts of an image; 5 is the paper's best."
    )
    num_blocks: int = Field(6, ge=1, description="Update steps of the generator; paper: 6.")
    num_heads: int = Field(
        6, ge=1, description="Attention heads, a divisor of the token dim; re-implementations: 6."
    )
    ffn_ratio: int = Field(4, ge=1, description="Feed-forward width over token dim; assumed.")
    norm: Norm = Field(
        "post", description="Layer norm after or before a sublayer; assumed as in Vaswani 2017."
    )
    activation: Activation = Field("relu", description="Of the FFN; assumed.")
    prototype_init: Literal["normal", "orthogonal"] = Field(
        "normal", description="Standard normal, or orthogonal rows of length sqrt(dim); assumed."
    )


class ConceptGenerator(nn.Module):
    """The Adaptive Concept Generator.

    No positions enter, so tokens may come in any order and concepts follow their prototypes.

    Args:
        config: Its settings.
        dim: Channels of a token.
        generator: Draws the initial weights; equal on all workers.
    """

    def __init__(self, config: GeneratorConfig, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(config.num_prototypes, dim))
        self.blocks = nn.ModuleList(
            DecoderBlock(
                dim,
                config.num_heads,
                ffn_ratio=config.ffn_ratio,
                norm=config.norm,
                activation=config.activation,
                generator=generator,
            )
            for _ in range(config.num_blocks)
        )
        if config.prototype_init == "normal":
            nn.init.normal_(self.prototypes, generator=generator)
        else:
            nn.init.orthogonal_(self.prototypes, gain=dim**0.5, generator=generator)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B K D"]:
        """Adapts the prototypes to every image.

        Args:
            tokens: (B, N, D).

        Returns:
            (B, K, D) concepts, not normalised.
        """
        concepts: Tensor = self.prototypes.expand(tokens.shape[0], -1, -1)
        for block in self.blocks:
            concepts = block(concepts, tokens)
        return concepts
