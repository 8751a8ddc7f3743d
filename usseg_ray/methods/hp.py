"""HP: patches that look alike by frozen or by learnt features are pulled together, others apart.

Frozen patch tokens -> a small head makes codes, its slow copy (the teacher) makes others. Two pools
of reference patches, one of tokens and one of the teacher's codes, say how alike two patches must
be to count as hidden positives: more than either is like its best reference. A contrastive loss
pulls these together across the batch, first by tokens alone, later more and more by the teacher's
codes too; the same loss on codes that are mixed with those of attended neighbours spreads its
gradient over the neighbourhood. A photometric view shall give the same code. k-means on the codes
finds the K groups or, as published, a cluster probe on the way.

Reference:
    Seong et al., Leveraging Hidden Positives for Unsupervised Semantic Segmentation, CVPR 2023,
    arXiv 2303.15014.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Step, StepResult
from usseg_ray.methods.base import Defaults, Needs, ParamGroup, Passes
from usseg_ray.methods.parts.codes import CodeMethod
from usseg_ray.methods.parts.contrastive import (
    ContrastiveOptions,
    consistency_loss,
    draw_denominators,
    hidden_positive_loss,
)
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead, make_linear, update_teacher
from usseg_ray.methods.parts.reference_pool import ReferencePool, fill_pools, is_due, patch_rows
from usseg_ray.methods.parts.rules import fixed, rate
from usseg_ray.ops.attention import cosine_weights, propagate
from usseg_ray.ops.draws import dropout_mask, uniforms
from usseg_ray.settings.hp import HPConfig

_DENOMINATORS = 1003
"""Pairs that join an anchor's denominator by chance: 2 % of 64 images of 28x28, as published."""


class HPDraws(NamedTuple):
    """Everything random in a step. Masks have a number per image and channel.

    Attributes:
        student: Dropout of the head's inputs.
        teacher: Dropout of the teacher's inputs.
        features: Of the tokens that are compared.
        teacher_codes: Of the teacher's codes.
        mixed_codes: Of the mixed codes; the student's own codes have none.
        augmented: Dropout of the head's inputs for the photometric view.
        sampled: (n, B n) pairs that join the denominators by chance, see `hidden_positive_loss`;
            `None` for all.
    """

    student: HeadMasks
    teacher: HeadMasks
    features: Float[Tensor, "B D 1 1"]
    teacher_codes: Float[Tensor, "B C 1 1"]
    mixed_codes: Float[Tensor, "B C 1 1"]
    augmented: HeadMasks
    sampled: Bool[Tensor, "n N"] | None


class HPCodes(NamedTuple):
    """What a step compares.

    Attributes:
        features: (B, D, h, w) tokens after dropout.
        student: (B, C, h, w) with gradient.
        teacher: (B, C, h, w) without.
        mixed: (B, C, h, w) student codes mixed with their neighbours', with gradient to both.
    """

    features: Float[Tensor, "B D h w"]
    student: Float[Tensor, "B C h w"]
    teacher: Float[Tensor, "B C h w"]
    mixed: Float[Tensor, "B C h w"]


class HP(CodeMethod):
    """Hidden positives, global and local.

    Pools are equal on all workers. The contrastive loss compares the images of a worker's own part
    of the batch: that of n workers is the mean of the losses of their parts.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys initial weights, dropout, denominators and pools.

    Raises:
        UserError: Attention is asked for, but the backbone has none.
    """

    name: ClassVar[str] = "hp"
    Config: ClassVar[type[MethodConfig]] = HPConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 15, "train.batch_size": 64},
        embedded={"train.epochs": 4, "train.batch_size": 8},
        textons={
            # Textons have no attention.
            "method.affinity": "cosine",
            "method.dim": 32,
            "method.dropout": 0.0,
            "method.consistency_weight": 0.0,
            "method.pool_size": 240,
            "method.renewal_steps": 10,
            "method.ramp_start": 10,
            "method.lr": 1e-2,
            "method.projection_lr": 1e-2,
        },
    )

    def __init__(
        self, config: HPConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        if config.affinity == "attention" and not features.has_attention:
            raise UserError(
                "method.affinity = 'attention': this backbone has no attention to give. "
                "--set method.affinity=cosine, or choose a ViT (backbone.name)."
            )
        super().__init__(config, features, num_clusters, seed)
        self.config: HPConfig = config
        generator = shared_generator(seed, self.name, "weights")
        self.head = SegmentationHead(features.dim, config.dim, generator)
        self.teacher = deepcopy(self.head).requires_grad_(False)
        self.projection = make_linear(config.dim, config.dim, generator)
        self.probe = self.make_probe(config.dim, generator)
        self.agnostic_pool = ReferencePool(config.pool_size, features.dim)
        self.specific_pool = ReferencePool(config.pool_size, config.dim)

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401
        """Needs local attention unless cosines replace it, and a view unless it weighs nothing."""
        return Needs(
            local_attention=config.affinity == "attention",
            photometric=config.photometric if config.consistency_weight > 0 else None,
        )

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how far head and projection walk, and how many pairs join a denominator."""
        tokens = facts.batch_size * facts.grid**2
        share = min(1.0, _DENOMINATORS / tokens)
        found = (
            rate("method.lr", facts.steps),
            rate("method.projection_lr", facts.steps),
            fixed("method.ramp_start", facts.steps // 20, "a twentieth of the steps, as published"),
            fixed("method.pool_size", min(2048, facts.images), "a row an image, at most 2048"),
            fixed("method.renewal_steps", None, "ten pools in a run"),
            fixed("method.denominator_share", share, "as many pairs as the published 2 % of 64"),
            fixed("method.temperature", 0.3, "of few steps, which leave codes alike", (0.2, 0.6)),
            fixed("method.dim", 64, "codes for few images"),
            fixed("method.weight_decay", 0.0, "of few steps"),
            fixed("method.consistency_weight", 0.0, "a view costs the backbone again; Potsdam's"),
        )
        if facts.has_attention:
            return found
        return (*found, fixed("method.affinity", "cosine", "this backbone has no attention"))

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists head, projection and cluster probe; only the head decays and is clipped."""
        config = self.config
        decay, clip = config.weight_decay, config.clip_norm
        return [
            ParamGroup([*self.head.parameters()], config.lr, weight_decay=decay, clip_norm=clip),
            ParamGroup([*self.projection.parameters()], config.projection_lr, "adam"),
            *self.probe_groups(),
        ]

    @torch.no_grad()
    def before_step(
        self,
        stage: str,
        step: Step,
        passes: Passes,
        patches: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Fills both pools before the first step, and later renews the task-specific one.

        A pool has one patch of each image of a shuffled walk, and again where images are fewer than
        rows. It is the same on every worker, whatever their number.

        Args:
            stage: The one stage, `train`.
            step: Where training stands.
            passes: Walks over this worker's training images.
            patches: Which patch of each image joins a pool, counted row by row; drawn if unset.

        Raises:
            UserError: There are no training images.

        Reference:
            CVPR 2023, reference pools; tokens and codes have dropout here as in the official code.
        """
        if not is_due(step, self.config.renewal_steps):
            return
        due = {"specific": self.specific_pool}
        if step.index == 0:
            due["agnostic"] = self.agnostic_pool
        key = (self.seed, self.name, stage, step.index, "pools")
        fill_pools(due, passes.crops, self._pool_maps, step.index, *key, patches=patches)

    def draw(self, batch: Batch, stage: str) -> HPDraws:
        """Draws dropout and denominators of a step.

        Args:
            batch: Its images and step key the draws.
            stage: The one stage, `train`.

        Returns:
            Draws on the device of the tokens; those of an image depend on its id alone.
        """
        key = (self.seed, self.name, stage, batch.step.index)
        tokens, share = batch.features.tokens, self.config.denominator_share
        patches = tokens.shape[2] * tokens.shape[3]
        sampled = draw_denominators(
            batch.ids, patches, share, *key, "denominators", device=tokens.device
        )
        by_token = self._dropout(batch, 7, tokens.shape[1], *key, "inputs")
        by_code = self._dropout(batch, 2, self.config.dim, *key, "outputs")
        return HPDraws(
            student=HeadMasks(*by_token[:2]),
            teacher=HeadMasks(*by_token[2:4]),
            features=by_token[4],
            teacher_codes=by_code[0],
            mixed_codes=by_code[1],
            augmented=HeadMasks(*by_token[5:]),
            sampled=sampled,
        )

    def codes(self, features: FeatureMap, draws: HPDraws) -> HPCodes:
        """Computes what a step compares.

        Args:
            features: Of the training crops.
            draws: Their dropout.

        Returns:
            Tokens and codes.
        """
        tokens = features.tokens.detach()
        student = self.head(tokens, draws.student)
        with torch.no_grad():
            teacher = self.teacher(tokens, draws.teacher) * draws.teacher_codes
        mixed = propagate(student, self._local_weights(features)) * draws.mixed_codes
        return HPCodes(tokens * draws.features, student, teacher, mixed)

    def loss(self, batch: Batch, stage: str, draws: HPDraws | None = None) -> StepResult:
        """Computes the losses (contrast, consistency, learnt centroids) and moves the teacher.

        In training the teacher follows the head here, as in the official code: after its codes are
        computed and before the optimiser's step. Every call in training mode is one such update.

        Args:
            batch: Training crops, with a photometric view if the consistency counts.
            stage: The one stage, `train`.
            draws: Dropout and denominators; drawn by `draw` if unset.

        Returns:
            The loss; scalars of its terms, the weight of task-specific positives, the mean number
            of positives of an anchor by kind, and the share of patches that are anchors.

        Raises:
            TypeError: The batch lacks attention or view.

        Reference:
            CVPR 2023, total objective; official code.
        """
        draws = draws or self.draw(batch, stage)
        codes = self.codes(batch.features, draws)
        if self.training:
            update_teacher(self.teacher, self.head, self.config.decay)
        projected = self._project(codes.student)
        loss, scalars = self._contrast(codes, projected, draws.sampled, batch.step)
        if self.config.consistency_weight > 0:
            consistency = self._consistency(projected, batch, draws)
            loss = loss + self.config.consistency_weight * consistency
            scalars["consistency"] = consistency.detach()
        return self.with_probe(StepResult(loss, scalars), codes.student)

    def task_weight(self, step: Step) -> float:
        """Computes lambda, the weight of task-specific positives: 0, then up to 1 at the end."""
        start = self.config.ramp_start
        return max(0, step.index - start) / max(1, step.total - start)

    def _contrast(
        self,
        codes: HPCodes,
        projected: Float[Tensor, "N C"],
        sampled: Bool[Tensor, "n N"] | None,
        step: Step,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        config, weight = self.config, self.task_weight(step)
        contrast = hidden_positive_loss(
            projected,
            self._project(codes.mixed),
            self.agnostic_pool.candidates(codes.features),
            self.specific_pool.candidates(codes.teacher) if weight > 0 else None,
            sampled,
            codes.student.shape[2] * codes.student.shape[3],
            ContrastiveOptions(config.temperature, weight, config.reweighting, config.weighting),
        )
        return contrast.loss, contrast.scalars() | {"task_weight": torch.tensor(weight)}

    def _consistency(
        self, projected: Float[Tensor, "N C"], batch: Batch, draws: HPDraws
    ) -> Float[Tensor, ""]:
        if batch.augmented is None:
            raise TypeError("hp needs Batch.augmented in training")
        codes = self.head(batch.augmented.tokens.detach(), draws.augmented)
        return consistency_loss(projected, self._project(codes))

    def _project(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "N C"]:
        return normalize(self.projection(patch_rows(codes)), dim=1)

    def _local_weights(self, features: FeatureMap) -> Float[Tensor, "B 9 h w"]:
        if self.config.affinity == "cosine":
            return cosine_weights(features.tokens, self.config.affinity_temperature)
        if features.local is None:
            raise TypeError("method.affinity = 'attention' needs FeatureMap.local")
        return features.local

    def _dropout(self, batch: Batch, count: int, dim: int, *key: int | str) -> tuple[Tensor, ...]:
        device = batch.features.tokens.device
        draws = uniforms(batch.ids, (count, dim, 1, 1), *key, device=device)
        return dropout_mask(draws, self.config.dropout).unbind(1)

    def _pool_maps(self, batch: Batch, *key: int | str) -> dict[str, Tensor]:
        tokens = batch.features.tokens
        *masks, features = self._dropout(batch, 3, tokens.shape[1], *key, "inputs")
        (codes,) = self._dropout(batch, 1, self.config.dim, *key, "outputs")
        teacher = self.teacher(tokens, HeadMasks(*masks))
        return {"agnostic": tokens * features, "specific": teacher * codes}
