"""PPAP: the block that tokens come from learns, pulled to positives that each patch finds anew.

Frozen patch tokens say which patches of a batch are alike: each anchor gathers its positives around
a proxy that moves to where they are dense (`ops.proxies`). A copy of the transformer block that
those tokens are read of, fed with what the frozen blocks before it give, learns to pull the codes
of anchors and positives together. At the start codes are the tokens. k-means on the codes finds the
K groups or, as published, a cluster probe on the way.

Reference:
    Seong et al., Progressive Proxy Anchor Propagation for Unsupervised Semantic Segmentation,
    ECCV 2024, arXiv 2407.12463; where paper and official code differ, the code.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, StepResult
from usseg_ray.methods.base import Defaults, Needs, ParamGroup
from usseg_ray.methods.parts.codes import CodeMethod
from usseg_ray.methods.parts.heads import initialise_like_torch
from usseg_ray.methods.parts.rules import fixed, threshold
from usseg_ray.methods.parts.transformer import ResidualBlock
from usseg_ray.ops.draws import dropout_mask, uniforms
from usseg_ray.ops.proxies import Zones, find_partners, proxy_contrast
from usseg_ray.ops.unset import unset
from usseg_ray.settings.ppap import PPAPConfig


class PPAPDraws(NamedTuple):
    """Everything random in a step.

    Attributes:
        anchors: (B, n) which patches of each image are anchors, counted row by row.
        features: (B, D, 1, 1) dropout of the tokens that positives are found by.
    """

    anchors: Int64[Tensor, "B n"]
    features: Float[Tensor, "B D 1 1"]


class PPAP(CodeMethod):
    """Progressive proxy anchor propagation.

    The loss compares the images of a worker's own part of the batch: that of n workers is the mean
    of the losses of their parts. Anchors are drawn image by image; the official code draws them
    from groups of 784 tokens, which at 16 pixels a token are four images.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys initial weights, dropout and anchors.

    Raises:
        UserError: The backbone has no block to copy, or its weights cannot be had.
    """

    name: ClassVar[str] = "ppap"
    Config: ClassVar[type[MethodConfig]] = PPAPConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 25, "train.batch_size": 64},
        embedded={"train.epochs": 10, "train.batch_size": 8, "train.eval_every": 5},
        textons={
            # Textons come of no block.
            "method.block": "new",
            "method.positive": 0.9,
            "method.negative": 0.5,
            "method.temperature": 0.2,
        },
    )

    def __init__(
        self, config: PPAPConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config: PPAPConfig = config
        generator = shared_generator(seed, self.name, "weights")
        self.block = _block(config, features, generator)
        self.projection = unset(nn.Linear(features.dim, features.dim, device="meta"))
        initialise_like_torch(self.projection, generator)
        self.probe = self.make_probe(features.dim, generator)
        self.zones = Zones(
            config.positive,
            config.negative,
            config.rounds,
            config.positive_step,
            config.negative_step,
        )

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401
        """Needs what goes into the block that is copied."""
        return Needs(block_input=config.block == "copy")

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how many pairs are positives and negatives; a new block where there is no other."""
        found = [fixed("method.weight_decay", 0.0, "of few steps")]
        if not facts.has_attention:
            found.append(fixed("method.block", "new", "this backbone has no block to copy"))
        pairs = facts.statistics
        if pairs is None:
            return tuple(found)
        return (
            *found,
            threshold("method.positive", pairs.within, 0.2, "pairs within an image"),
            threshold("method.negative", pairs.random, 0.4, "pairs with another image"),
        )

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists block and projection together, and the cluster probe."""
        config, modules = self.config, (self.block, self.projection)
        learnt = [p for module in modules for p in module.parameters() if p.requires_grad]
        decay, clip = config.weight_decay, config.clip_norm
        return [
            ParamGroup(learnt, config.lr, weight_decay=decay, clip_norm=clip),
            *self.probe_groups(),
        ]

    def draw(self, batch: Batch, stage: str) -> PPAPDraws:
        """Draws anchors and dropout of a step.

        Args:
            batch: Its images and step key the draws.
            stage: The one stage, `train`.

        Returns:
            Draws on the device of the tokens; those of an image depend on its id alone.
        """
        key = (self.seed, self.name, stage, batch.step.index)
        tokens = batch.features.tokens
        patches, device = tokens.shape[2] * tokens.shape[3], tokens.device
        order = uniforms(batch.ids, (patches,), *key, "anchors", device=device).argsort(1)
        dropped = uniforms(batch.ids, (tokens.shape[1], 1, 1), *key, "features", device=device)
        return PPAPDraws(
            order[:, : max(1, patches // self.config.split)],
            dropout_mask(dropped, self.config.dropout),
        )

    def loss(self, batch: Batch, stage: str, draws: PPAPDraws | None = None) -> StepResult:
        """Computes the contrastive loss, and that of centroids which are learnt.

        Args:
            batch: Training crops.
            stage: The one stage, `train`.
            draws: Anchors and dropout; drawn by `draw` if unset.

        Returns:
            The loss; scalars of its terms, how many positives and how many patches in all an anchor
            is compared with, and how far proxies move.

        Reference:
            arXiv 2407.12463; official code.
        """
        if draws is None:
            draws = self.draw(batch, stage)
        codes = self._codes(batch.features)
        units = normalize(_rows(batch.features.tokens.detach() * draws.features))
        projected = normalize(self.projection(_rows(codes)))
        patches = codes.shape[2] * codes.shape[3]
        losses, seen = [], []
        for image, own in enumerate(draws.anchors):
            anchors = own + image * patches
            partners = find_partners(units, anchors, self.zones)
            losses.append(proxy_contrast(projected, anchors, partners, self.config.temperature))
            counted = (part.sum(1).float().mean() for part in partners[:2])
            seen.append(torch.stack([*counted, partners.moved.mean()]))
        loss = torch.stack(losses).mean()
        names = ("contrast", "positives", "compared", "proxies_moved")
        values = (loss.detach(), *torch.stack(seen).mean(0))
        return self.with_probe(StepResult(loss, dict(zip(names, values, strict=True))), codes)

    @torch.no_grad()
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the block's patch tokens."""
        return self._codes(batch.features)

    def _codes(self, features: FeatureMap) -> Float[Tensor, "B D h w"]:
        codes: Tensor
        if self.config.block == "new":
            codes = self.block(features.tokens.detach())
            return codes
        if features.block_input is None:
            raise TypeError("method.block = 'copy' needs FeatureMap.block_input")
        codes = self.block(features.block_input, *features.tokens.shape[2:])
        return codes


def _block(config: PPAPConfig, features: FeatureSpec, generator: torch.Generator) -> nn.Module:
    if config.block == "new":
        return ResidualBlock(features.dim, generator)
    if features.block is None:
        raise UserError(
            "method.block = 'copy': this backbone's tokens are not those of one ViT block, as they "
            "are. Take a ViT such as dino_s8, or --set method.block=new for a block on top."
        )
    return features.block()


def _rows(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "N D"]:
    return maps.flatten(2).mT.flatten(0, 1)
