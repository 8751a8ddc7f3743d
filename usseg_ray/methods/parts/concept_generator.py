"""ACSeg's Adaptive Concept Generator: prototypes of the data set become concepts of an image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.methods.parts.transformer import DecoderBlock
from usseg_ray.settings.acseg import GeneratorConfig


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
