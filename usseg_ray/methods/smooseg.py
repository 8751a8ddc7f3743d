"""SmooSeg: a smooth labelling by prototypes, whose slow copy is the classifier.

Frozen patch tokens -> a small head makes codes -> their cosines to K teacher prototypes, sharpened,
are label probabilities. Positions whose tokens are alike shall have the same label, others shall
not (smoothness; trains the head). Student prototypes learn to give the teacher's labels (data;
trains only them) and the teacher follows them slowly. No views or neighbours are needed; clusters
are the teacher's prototypes, k-means of the codes, or what a criterion prefers of both.

Reference:
    Lan et al., SmooSeg: Smoothness Prior for Unsupervised Semantic Segmentation, NeurIPS 2023,
    arXiv 2310.17874.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.types import Batch, FeatureSpec, StepResult
from usseg_ray.methods.base import CodeClassifier, Defaults, ParamGroup, Passes
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.codes import fit_centroids
from usseg_ray.methods.parts.correspondence import Maps, avoid_self, moments, smoothness
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead, update_teacher
from usseg_ray.methods.parts.rules import HEAD, fixed, rate, threshold
from usseg_ray.ops.draws import dropout_mask, uniforms
from usseg_ray.ops.largest import argmax
from usseg_ray.ops.transfer import sent
from usseg_ray.settings.smooseg import SmooSegConfig


class SmooSegDraws(NamedTuple):
    """Everything random in a step.

    Attributes:
        head: Dropout of the head's two inputs.
        features: (B, D, 1, 1) dropout of the features that the loss compares.
        negatives: (B,) the other image of each image, see `avoid_self`.
    """

    head: HeadMasks
    features: Float[Tensor, "B D 1 1"]
    negatives: Int64[Tensor, "B"]


class SmooSeg(CodeClassifier):
    """Smoothness prior with asymmetric prototypes.

    The loss compares the images of a worker's own part of the batch: that of n workers is the mean
    of the losses of their parts. In a part of one image, that image is its own negative.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys initial weights, dropout and negatives.
    """

    name: ClassVar[str] = "smooseg"
    Config: ClassVar[type[MethodConfig]] = SmooSegConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 6, "train.steps_per_epoch": 500, "train.batch_size": 32},
        embedded={"train.epochs": 20, "train.eval_every": 5},
        textons={
            "method.shift_intra": 0.55,
            "method.shift_negative": 0.75,
            "method.decay": 0.98,
            "method.lr": 1e-2,
            "method.prototype_lr": 1e-3,
            "method.clustering": "kmeans",
        },
    )
    centroids_in: ClassVar[tuple[str, ...]] = (
        *(f"{one}.centroids" for one in ("student", "teacher", "lagging", "groups")),
        "groups.grouped",
    )

    def __init__(
        self, config: SmooSegConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config = config
        generator = shared_generator(seed, self.name, "weights")
        self.head = SegmentationHead(features.dim, config.dim, generator, activation="silu")
        self.student = ClusterProbe(num_clusters, config.dim, generator)
        with torch.no_grad():
            self.student.centroids.copy_(normalize(self.student.centroids, dim=1))
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.lagging = deepcopy(self.teacher)
        self.positions = features.eval_grid**2
        if config.clustering != "prototypes":
            both = config.clustering == "auto"
            self.groups = ClusterProbe(num_clusters, config.dim, generator, both=both)
            self.groups.requires_grad_(requires_grad=False)

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how far head and prototypes move, and how many pairs shall agree.

        Prototypes move a tenth as far as the head: faster ones lose groups.
        """
        learnt = (
            rate("method.lr", facts.steps),
            rate("method.prototype_lr", facts.steps, HEAD / 10),
            fixed("method.decay", 0.98, "the teacher is renewed five times in 250 steps"),
            fixed("method.clustering", "kmeans", "prototypes of so few steps lie less evenly"),
        )
        pairs = facts.statistics
        if pairs is None:
            return learnt
        return (
            *learnt,
            threshold("method.shift_intra", pairs.within, 0.7, "pairs within an image"),
            threshold("method.shift_negative", pairs.random, 1e-3, "pairs with another image"),
        )

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists head and student prototypes, each with its own rate."""
        return [
            ParamGroup(list(self.head.parameters()), self.config.lr, "adam"),
            ParamGroup(list(self.student.parameters()), self.config.prototype_lr, "adam"),
        ]

    def draw(self, batch: Batch, stage: str) -> SmooSegDraws:
        """Draws dropout and negatives of a step.

        Args:
            batch: Its images and step key the draws.
            stage: The one stage, `train`.

        Returns:
            Draws on the device of the tokens; dropout of an image depends on its id alone, the
            negatives on the size of the batch.
        """
        key = (self.seed, self.name, stage, batch.step.index)
        tokens = batch.features.tokens
        draws = uniforms(batch.ids, (3, tokens.shape[1], 1, 1), *key, "dropout")
        masks = sent(dropout_mask(draws, self.config.dropout), tokens.device)
        linear, nonlinear, features = masks.to(tokens.dtype).unbind(1)
        permutation = torch.randperm(len(batch.ids), generator=shared_generator(*key, "negatives"))
        negatives = sent(avoid_self(permutation[None])[0], tokens.device)
        return SmooSegDraws(HeadMasks(linear, nonlinear), features, negatives)

    def loss(self, batch: Batch, stage: str, draws: SmooSegDraws | None = None) -> StepResult:
        """Computes smoothness within and between images, and the data term.

        Args:
            batch: Training crops.
            stage: The one stage, `train`.
            draws: Dropout and negatives; drawn by `draw` if unset.

        Returns:
            The loss; scalars of its three terms, and `confidence`, the mean over positions of the
            largest probability.

        Reference:
            arXiv 2310.17874, smoothness and data terms; official code.
        """
        if draws is None:
            draws = self.draw(batch, stage)
        tokens = batch.features.tokens.detach()
        codes = self.head(tokens, draws.head)
        scores = self.teacher(codes)
        probabilities = (scores / self.config.temperature).softmax(1)
        images = moments(Maps(tokens * draws.features, probabilities))
        intra, negative = (
            smoothness(images, other, shift, pointwise=self.config.pointwise)
            for other, shift in (
                (images, self.config.shift_intra),
                (images.of(draws.negatives), self.config.shift_negative),
            )
        )
        # Cosines as they are: at temperature 1 this stays above log(1 + (K - 1) / e^2).
        data = cross_entropy(self.student(codes.detach()), argmax(scores, 1))
        loss = (
            self.config.weight_intra * intra
            + self.config.weight_negative * negative
            + self.config.weight_data * data
        )
        scalars = {
            "intra": intra.detach(),
            "negative": negative.detach(),
            "data": data.detach(),
            "confidence": probabilities.detach().amax(1).mean(),
        }
        return StepResult(loss, scalars)

    def after_step(self) -> None:
        """Moves the teacher towards the student as it was before the optimiser's step.

        The official code updates the teacher between loss and optimiser, with rows of any length.
        """
        update_teacher(self.teacher, self.lagging, self.config.decay)
        update_teacher(self.lagging, self.student, 0.0)

    def fit_clusters(self, passes: Passes) -> None:
        """Finds centroids by k-means, unless they are the prototypes, learnt on the way."""
        if self.config.clustering == "auto":
            update_teacher(self.groups, self.teacher, 0.0)
        if self.config.clustering != "prototypes":
            fit_centroids(self, self.groups, passes, self.positions)

    def clusterings(self) -> Mapping[str, Callable[[], None]]:
        """Names the teacher's prototypes and groups by k-means, where it has both."""
        return self.groups.kinds("prototypes") if self.config.clustering == "auto" else {}

    @torch.no_grad()
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the head's codes, without dropout."""
        codes: Tensor = self.head(batch.features.tokens)
        return codes

    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Scores each cluster by the cosine of code and centroid, or teacher prototype.

        The official code upsamples codes to the label's size and takes cosines there; scoring
        upsamples these cosines, which differs between neighbouring tokens of unequal codes.

        Args:
            codes: (B, C, h, w) of any length.

        Returns:
            (B, K, h, w) cosines.
        """
        clusters = self.teacher if self.config.clustering == "prototypes" else self.groups
        scores: Tensor = clusters(codes)
        return scores
