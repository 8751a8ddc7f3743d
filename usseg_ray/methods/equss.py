"""EQUSS: STEGO's codes in many channels, then each group of channels by one vector of a codebook.

The loss on correspondences acts on the expanded codes as they are. Beside it, every group of
channels is drawn to the nearest of a few learnt vectors, and these to it; what is grouped and
predicted from are the vectors, which say what a position is in far fewer bits.

Reference:
    Kim et al., Expand-and-Quantize: Unsupervised Semantic Segmentation Using High-Dimensional
    Space and Product Quantization, AAAI 2024, arXiv 2312.07342; official code.
"""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureSpec, StepResult
from usseg_ray.methods.base import Defaults, ParamGroup
from usseg_ray.methods.parts.heads import HeadMasks
from usseg_ray.methods.stego import STEGO, ViewMasks
from usseg_ray.ops.draws import dropout_mask, uniforms
from usseg_ray.ops.largest import argmax
from usseg_ray.settings.equss import EQUSSConfig


class Quantised(NamedTuple):
    """Codes as vectors of codebooks.

    Attributes:
        codes: (B, C, h, w) the vectors side by side, detached.
        loss: What codes and vectors lose by each other.
        usage: Share of all vectors that any position took, detached.
    """

    codes: Float[Tensor, "B C h w"]
    loss: Float[Tensor, ""]
    usage: Float[Tensor, ""]


class ProductQuantiser(nn.Module):
    """Replaces each group of channels by the vector of its codebook that points most its way.

    Args:
        dim: Channels of a code, a multiple of `subspaces`.
        subspaces: Groups of channels.
        size: Vectors of each codebook.
        commitment: Weight of what codes lose by their vectors.
        generator: Draws the initial vectors, as Xavier; equal on all workers.

    Reference:
        EQUSS (AAAI 2024), product quantisation.
    """

    def __init__(
        self, dim: int, subspaces: int, size: int, commitment: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = dim // subspaces
        bound = (6 / (size + width)) ** 0.5
        drawn = torch.rand(subspaces, size, width, generator=generator)
        self.vectors = nn.Parameter(bound * (2 * drawn - 1))
        self.commitment = commitment

    def forward(self, codes: Float[Tensor, "B C h w"]) -> Quantised:
        """Quantises codes.

        Args:
            codes: (B, C, h, w) of any length: groups of channels count by their direction.

        Returns:
            Vectors in the length they have, and the loss, whose gradient reaches codes and vectors.
        """
        count, _, height, width = codes.shape
        subspaces, size, _ = self.vectors.shape
        parts = codes.unflatten(1, (subspaces, -1)).permute(1, 0, 3, 4, 2).flatten(1, 3)
        parts = normalize(parts, dim=2)
        places = self._nearest(parts.detach())
        taken = torch.stack([book[at] for book, at in zip(self.vectors, places, strict=True)])
        loss = mse_loss(taken, parts.detach()) + self.commitment * mse_loss(parts, taken.detach())
        used = torch.zeros(subspaces, size, device=codes.device).scatter(1, places, 1.0)
        maps = taken.detach().unflatten(1, (count, height, width))
        return Quantised(maps.permute(1, 0, 4, 2, 3).flatten(1, 2), loss, used.mean())

    @torch.no_grad()
    def _nearest(self, parts: Float[Tensor, "M N c"]) -> Int64[Tensor, "M N"]:
        """Finds each part's vector, one codebook after the other: all at once take M times more."""
        books = normalize(self.vectors, dim=2)
        return torch.stack(
            [argmax(part @ book.mT, 1) for part, book in zip(parts, books, strict=True)]
        )


class EQUSS(STEGO):
    """Expand and quantise.

    The codes of an image's neighbour are compared and not quantised, as in the official code.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys initial weights, dropout, sampled positions and negatives.
    """

    name: ClassVar[str] = "equss"
    Config: ClassVar[type[MethodConfig]] = EQUSSConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 3, "train.batch_size": 16},
        embedded={"train.epochs": 20, "train.eval_every": 5},
        textons={
            "method.dim": 256,
            "method.codebook_size": 32,
            "method.shift_intra": 0.45,
            "method.shift_inter": 0.45,
            "method.shift_negative": 0.6,
            "method.lr": 1e-2,
        },
    )

    def __init__(
        self, config: EQUSSConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config: EQUSSConfig = config
        # Of their own, so that they do not depend on how many centroids were drawn before.
        generator = shared_generator(seed, self.name, "codebooks")
        self.quantiser = ProductQuantiser(
            config.dim, config.subspaces, config.codebook_size, config.commitment, generator
        )

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists head and codebooks together, and the cluster probe."""
        learnt = [*self.head.parameters(), *self.quantiser.parameters()]
        return [
            ParamGroup(learnt, self.config.lr, "adam", clip_norm=self.config.clip_norm),
            *self.probe_groups(),
        ]

    def with_probe(self, result: StepResult, codes: Float[Tensor, "B C h w"]) -> StepResult:
        """Adds the codebooks' loss, and that of centroids on quantised codes if they are learnt."""
        quantised: Quantised = self.quantiser(codes)
        scalars = {"quantisation": quantised.loss.detach(), "codebook_usage": quantised.usage}
        whole = StepResult(result.loss + quantised.loss, {**result.scalars, **scalars})
        return super().with_probe(whole, quantised.codes)

    @torch.no_grad()
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the quantised codes, without dropout."""
        codes: Tensor = self.quantiser(super().describe(batch)).codes
        return codes

    def _masks(self, batch: Batch, *key: int | str) -> ViewMasks:
        tokens = batch.features.tokens
        draws = uniforms(batch.ids, (tokens.shape[1], 1, 1), *key, device=tokens.device)
        mask = dropout_mask(draws, self.config.dropout)
        return ViewMasks(HeadMasks(mask, mask), mask)
