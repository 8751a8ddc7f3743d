"""STEGO: codes whose correspondences sharpen those of the frozen features.

Frozen patch tokens -> a small head makes codes -> pairs of positions within an image, with one of
its nearest neighbours and with other images attract or repel each other, according to the cosine
of their tokens. A position belongs to the nearest of K centroids of the codes, by cosine: those of
k-means, or as published a cluster probe that learns beside the head. Nothing but pixels enters.

Reference:
    Hamilton et al., Unsupervised Semantic Segmentation by Distilling Feature Correspondences,
    ICLR 2022, arXiv 2203.08414.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, StepResult
from usseg_ray.methods.base import Defaults, Needs, ParamGroup
from usseg_ray.methods.parts.codes import CodeMethod
from usseg_ray.methods.parts.correspondence import (
    Draws,
    Maps,
    Shifts,
    Switches,
    avoid_self,
    correspondence_terms,
)
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead
from usseg_ray.methods.parts.rules import rate, threshold
from usseg_ray.ops.draws import dropout_mask, uniforms
from usseg_ray.ops.transfer import sent
from usseg_ray.settings.stego import STEGOConfig


class ViewMasks(NamedTuple):
    """Channel dropout of one image of a pair.

    Attributes:
        head: Masks of the head's two inputs.
        features: (B, D, 1, 1) mask of the features that the loss compares.
    """

    head: HeadMasks
    features: Float[Tensor, "B D 1 1"]


class STEGODraws(NamedTuple):
    """Everything random in a step.

    Attributes:
        anchor: Dropout of the images.
        positive: Dropout of their neighbours.
        correspondence: Sampled positions and negatives.
    """

    anchor: ViewMasks
    positive: ViewMasks
    correspondence: Draws


class STEGO(CodeMethod):
    """Self-supervised transformer with energy-based graph optimisation.

    The loss compares the images of a worker's own part of the batch: that of n workers is the mean
    of the losses of their parts. In a part of one image, that image is its own negative.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys initial weights, dropout, sampled positions and negatives.
    """

    name: ClassVar[str] = "stego"
    Config: ClassVar[type[MethodConfig]] = STEGOConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 10, "train.steps_per_epoch": 500, "train.batch_size": 16},
        embedded={"train.epochs": 20, "train.eval_every": 5},
        textons={
            "method.dim": 32,
            "method.shift_intra": 0.45,
            "method.shift_inter": 0.45,
            "method.shift_negative": 0.6,
            "method.lr": 1e-2,
        },
    )

    def __init__(
        self, config: STEGOConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config: STEGOConfig = config
        generator = shared_generator(seed, self.name, "weights")
        self.head = SegmentationHead(features.dim, config.dim, generator)
        self.probe = self.make_probe(config.dim, generator)
        self.shifts = Shifts(config.shift_intra, config.shift_inter, config.shift_negative)
        self.switches = Switches(config.pointwise, config.zero_clamp, config.stabilise)

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401
        """Needs a neighbour of each image."""
        return Needs(neighbours=config.neighbours)

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how far the head walks, and how many pairs of each kind attract."""
        learnt = (rate("method.lr", facts.steps),)
        pairs = facts.statistics
        if pairs is None:
            return learnt
        return (
            *learnt,
            threshold("method.shift_intra", pairs.within, 0.6, "pairs within an image"),
            threshold("method.shift_inter", pairs.similar, 0.65, "pairs with a similar image"),
            threshold("method.shift_negative", pairs.random, 1e-4, "pairs with another image"),
        )

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists head and cluster probe, each with its own rate."""
        return [
            ParamGroup(list(self.head.parameters()), self.config.lr, "adam"),
            *self.probe_groups(),
        ]

    def draw(self, batch: Batch, stage: str) -> STEGODraws:
        """Draws dropout, positions and negatives of a step.

        Args:
            batch: Its images and step key the draws.
            stage: The one stage, `train`.

        Returns:
            Draws on the device of the tokens; those of an image depend on its id alone, the
            negatives on the size of the batch.
        """
        key = (self.seed, self.name, stage, batch.step.index)
        device = batch.features.tokens.device
        samples = self.config.feature_samples
        coords = uniforms(batch.ids, (2, samples, samples, 2), *key, "coords", device=device)
        anchors, others = (2 * coords - 1).unbind(1)
        generator = shared_generator(*key, "negatives")
        size = len(batch.ids)
        permutations = [
            torch.randperm(size, generator=generator) for _ in range(self.config.negatives)
        ]
        negatives = sent(avoid_self(torch.stack(permutations)), device)
        return STEGODraws(
            self._masks(batch, *key, "anchor"),
            self._masks(batch, *key, "positive"),
            Draws(anchors, others, negatives),
        )

    def loss(self, batch: Batch, stage: str, draws: STEGODraws | None = None) -> StepResult:
        """Computes the weighted correspondence loss, and that of centroids which are learnt.

        Args:
            batch: Training crops, each with a neighbour.
            stage: The one stage, `train`.
            draws: Dropout, positions and negatives; drawn by `draw` if unset.

        Returns:
            The loss; scalars of its terms and, as `*_similarity`, the mean code cosine of each
            kind of pairs.

        Raises:
            TypeError: The batch has no neighbours.

        Reference:
            arXiv 2203.08414, correspondence loss and cluster probe; official code.
        """
        if batch.positive is None:
            raise TypeError(f"{self.name} needs Batch.positive in training")
        if draws is None:
            draws = self.draw(batch, stage)
        anchors = self._maps(batch.features, draws.anchor)
        positives = self._maps(batch.positive, draws.positive)
        terms = correspondence_terms(
            anchors, positives, draws.correspondence, self.shifts, self.switches
        )
        correspondence = (
            self.config.weight_intra * terms.intra.loss
            + self.config.weight_inter * terms.inter.loss
            + self.config.weight_negative * terms.negative.loss
        )
        scalars = {"correspondence": correspondence.detach()}
        for name, term in zip(terms._fields, terms, strict=True):
            scalars |= {name: term.loss.detach(), f"{name}_similarity": term.similarity}
        return self.with_probe(StepResult(correspondence, scalars), anchors.codes)

    def _masks(self, batch: Batch, *key: int | str) -> ViewMasks:
        tokens = batch.features.tokens
        draws = uniforms(batch.ids, (3, tokens.shape[1], 1, 1), *key, device=tokens.device)
        linear, nonlinear, features = dropout_mask(draws, self.config.dropout).unbind(1)
        return ViewMasks(HeadMasks(linear, nonlinear), features)

    def _maps(self, features: FeatureMap, masks: ViewMasks) -> Maps:
        tokens = features.tokens.detach()
        return Maps(tokens * masks.features, self.head(tokens, masks.head))
