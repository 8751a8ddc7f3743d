"""PriMaPs-EM: a linear classifier that learns one label for each principal mask of an image.

Frozen patch tokens are split into masks, image by image, by their principal directions. A
classifier begins with the centroids of k-means on all tokens. Its slow copy labels every token,
each mask takes the label that most of its tokens have, and the classifier learns these. Nothing but
tokens enters.

Reference:
    Hahn et al., Boosting Unsupervised Semantic Segmentation with Principal Mask Proposals, TMLR
    2024, arXiv 2404.16818.
"""

from copy import deepcopy
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import all_sum, shared_generator, world_size
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureSpec, MaskRecipe, Needs, StepResult
from usseg_ray.methods.base import CodeClassifier, Defaults, ParamGroup, Passes
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.codes import fit_centroids
from usseg_ray.methods.parts.heads import update_teacher
from usseg_ray.methods.parts.rules import fixed, rate
from usseg_ray.ops.largest import argmax
from usseg_ray.ops.principal_masks import (
    CENTRED_PSI,
    ENOUGH,
    NONE,
    find_masks,
    principal_masks,
    usual_in_masks,
)
from usseg_ray.settings.primaps import PriMaPsConfig

_COPIES = 2
"""The first renewals of the teacher are copies of the student; official code."""
_EPSILON = 1e-12


class WeightedProbe(ClusterProbe):
    """K directions and their lengths: a linear classifier without bias, weight-normalised.

    Args:
        num_clusters: K.
        dim: Channels of a code.
        generator: Draws the initial directions; equal on all workers.
    """

    def __init__(self, num_clusters: int, dim: int, generator: torch.Generator) -> None:
        super().__init__(num_clusters, dim, generator)
        self.lengths = nn.Parameter(torch.ones(num_clusters, 1))

    def forward(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Computes logits of codes of any length; linear."""
        weights = self.lengths * normalize(self.centroids, dim=1)
        return torch.einsum("bchw,kc->bkhw", codes, weights)


class PriMaPs(CodeClassifier):
    """Principal mask proposals with stochastic expectation-maximisation.

    Masks, labels and loss are those of the token grid. Codes are tokens, averaged within their
    image where `context` asks for it: masks, classifier and prediction all go by them. Started from
    a trained method, classifier and prediction go by its codes instead, and masks by tokens still.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys the start.
    """

    name: ClassVar[str] = "primaps"
    Config: ClassVar[type[MethodConfig]] = PriMaPsConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 50, "train.batch_size": 32},
        embedded={"train.epochs": 10, "train.eval_every": 5},
        textons={
            "method.context": 0.75,
            "method.psi": CENTRED_PSI,
            "method.centre": True,
            "method.explained": ENOUGH,
        },
        trained={"method.init_from": None},
    )
    sharpness: ClassVar[float] = 1.0
    steps: Tensor
    origin: CodeClassifier | None

    def __init__(
        self, config: PriMaPsConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        self.config = config
        self.positions = features.eval_grid**2
        self.origin = _origin(config, features)
        dim = features.dim if self.origin is None else _centroids(self.origin).shape[1]
        generator = shared_generator(seed, self.name, "weights")
        self.student = WeightedProbe(num_clusters, dim, generator)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401
        """Needs masks of training images; those that are not stored are found in `loss`."""
        return Needs(masks=_recipe(config))

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how far the classifier walks, and finds masks whatever a network's cosines are."""
        return (
            rate("method.lr", facts.steps, 0.5),
            fixed("method.centre", True, "cosines of another network are spread otherwise"),
            fixed("method.psi", CENTRED_PSI, "of centred cosines", (0.4, 0.8)),
            fixed("method.explained", ENOUGH, "the last masks are of single tokens"),
        )

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists the classifier."""
        return [ParamGroup(list(self.student.parameters()), self.config.lr, "adam")]

    def on_epoch_start(self, stage: str, epoch: int, passes: Passes) -> None:  # noqa: ARG002
        """Begins with the centroids of k-means, or those of a trained method that has as many.

        The official code finds directions of the same objective by gradient, from principal ones.

        Raises:
            UserError: The images give fewer distinct codes than K.
        """
        if epoch == 0:
            if self.origin is not None and self.origin.num_clusters == self.num_clusters:
                self.student.load_state_dict(
                    self.student.state_dict() | {"centroids": _centroids(self.origin)}
                )
            else:
                fit_centroids(self, self.student, passes, self.positions)
            update_teacher(self.teacher, self.student, 0.0)

    def loss(self, batch: Batch, stage: str) -> StepResult:  # noqa: ARG002
        """Computes the cross-entropy of the student's logits and the masks' labels.

        Args:
            batch: Training crops.
            stage: The one stage, `train`.

        Returns:
            The loss, a mean over all positions, of which those outside of masks count 0; scalars:
            `masks` of an image, the share of positions that they cover, and how many of these
            positions the teacher gives another label (`relabelled`).

        Reference:
            arXiv 2404.16818, focal loss on pseudo labels; official code.
        """
        codes = self.encode(batch)
        masks = self._masks(batch, codes)
        scaled = self._scaled(codes)
        ids = argmax(self.teacher(scaled), 1)
        labels = usual_in_masks(ids, masks, self.num_clusters)
        logits = self.student(scaled)
        weights = (1 - self._shares(logits.detach())).clamp(min=0).pow(self.config.focus)
        part = cross_entropy(logits, labels, weights, ignore_index=NONE, reduction="sum")
        loss = part * world_size() / all_sum(part.new_tensor(float(labels.numel())))
        inside = labels != NONE
        numbers = masks.flatten(1).sort(1).values
        first = numbers.diff(dim=1, prepend=numbers.new_zeros(len(numbers), 1)) > 0
        relabelled = (inside & (labels != ids)).sum() / inside.sum().clamp(min=1)
        scalars = {
            "loss": loss.detach(),
            "masks": first.sum(1).float().mean(),
            "covered": inside.float().mean(),
            "relabelled": relabelled,
        }
        return StepResult(loss, scalars)

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher towards the student now and then, at first all the way."""
        self.steps += 1
        renewal, rest = divmod(int(self.steps), self.config.renewal_steps)
        if not rest:
            slow = 0.0 if renewal <= _COPIES else min(self.config.decay, 1 - 1 / renewal)
            update_teacher(self.teacher, self.student, slow)

    def fit_clusters(self, passes: Passes) -> None:
        """Does nothing: the classifier is learnt on the way."""

    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the backbone's tokens, or the codes that a trained method makes of them."""
        return (
            batch.features.tokens.detach() if self.origin is None else self.origin.describe(batch)
        )

    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Returns the student's logits of codes of any length."""
        logits: Tensor = self.student(self._scaled(codes))
        return logits

    def _masks(self, batch: Batch, codes: Float[Tensor, "B C h w"]) -> Int64[Tensor, "B h w"]:
        """Gives the masks of tokens: stored ones, or of codes where these are what masks are of."""
        config, stored = self.config, batch.features.masks
        if stored is not None:
            return stored
        if self.origin is not None:
            return find_masks(batch.features.tokens, _recipe(config))
        return principal_masks(codes, config.psi, explained=config.explained, centre=config.centre)

    def _scaled(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        length = codes.norm(dim=1).mean((1, 2)).clamp(min=_EPSILON)
        scaled: Tensor = codes * (self.config.scale / length)[:, None, None, None]
        return scaled

    def _shares(self, logits: Float[Tensor, "B K h w"]) -> Float[Tensor, "K"]:
        """Returns the mean probability of each label over the joint batch."""
        sums = logits.softmax(1).sum((0, 2, 3))
        cells = sums.new_tensor([float(logits[:, 0].numel())])
        joint = all_sum(torch.cat([sums, cells]))
        return joint[:-1] / joint[-1]


def _recipe(config: PriMaPsConfig) -> MaskRecipe:
    return MaskRecipe(
        psi=config.psi, explained=config.explained, centre=config.centre, context=config.context
    )


def _origin(config: PriMaPsConfig, features: FeatureSpec) -> CodeClassifier | None:
    """Builds the trained method that is started from, if one is."""
    if config.origin is None:
        if config.init_from is not None:
            raise UserError(
                "method.init_from is looked up before the first trial, so no trial can draw it: "
                "--set it, or give it under `fixed` of a space."
            )
        return None
    origin = features.trained(config.origin, config.init_from) if features.trained else None
    if not isinstance(origin, CodeClassifier):
        raise TypeError("method.origin needs FeatureSpec.trained, and a method with codes")
    return origin


def _centroids(origin: CodeClassifier) -> Float[Tensor, "K C"]:
    probe = origin.get_submodule("probe")
    if not isinstance(probe, ClusterProbe):
        raise TypeError("method.origin needs a method with a cluster probe")
    return probe.scoring.detach()
