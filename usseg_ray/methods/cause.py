"""CAUSE: a clusterbook of fine concepts first, then codes that tell its concepts apart.

Frozen patch tokens -> stage `clusterbook` learns a few thousand code vectors by modularity of each
image's token graph -> stage `concepts` trains a head whose codes are alike where tokens have like
clusterbook codes and unlike where they have unlike ones, against an averaged teacher and a bank of
earlier teacher projections -> K centroids group the teacher's codes: those of k-means or, as
published, of a stage `probe` that learns them by modularity. Prediction uses teacher and centroids.

Two things differ from the official code on purpose. Its third stage trains the evaluated teacher
by cross-entropy with ground truth, and in its second stage the norm that clips the head's gradient
includes that of a supervised probe; here no label enters anywhere. And its processes never
exchange gradients (each trains a model of its own, at a rate multiplied by their number, and the
first one's is kept); here gradients are averaged, and rates are meant for the whole batch.

Reference:
    Kim et al., Causal Unsupervised Semantic Segmentation, arXiv 2310.07379.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn.functional import normalize

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.distributed import all_gather, row_counts, shared_generator
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureSpec, StepResult
from usseg_ray.methods.base import CodeClassifier, Defaults, ParamGroup, Passes, Stage
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.clusterbook import WindowSample, clusterbook_step, draw_windows
from usseg_ray.methods.parts.codes import fit_centroids
from usseg_ray.methods.parts.concept_head import Masks, build_network
from usseg_ray.methods.parts.concepts import (
    contrast_concepts,
    nearest_codes,
    share_used,
)
from usseg_ray.methods.parts.heads import update_teacher
from usseg_ray.methods.parts.rules import HEAD, fixed, rate
from usseg_ray.ops.concept_bank import ConceptBank, Keys
from usseg_ray.ops.draws import uniforms
from usseg_ray.settings.cause import CAUSEConfig

_SHARPNESS = 3.0  # official factor of cosines before a softmax over clusters


class CAUSEDraws(NamedTuple):
    """Everything random in a step.

    Attributes:
        windows: The tokens that enter the losses.
        student: Dropout of the student; `None` for none.
        teacher: Dropout of the teacher; `None` for none.
        priorities: (B, r, c) random numbers; the lowest of each code enter the bank.
    """

    windows: WindowSample
    student: Masks | None
    teacher: Masks | None
    priorities: Float[Tensor, "B r c"]


class CAUSE(CodeClassifier):
    """Causal unsupervised segmentation: clusterbook, concept-wise contrast, cluster probe.

    The contrast within a batch is between the images of a worker's own part: the loss of n workers
    is the mean of the losses of their parts. The bank is fed by all workers alike.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K.
        seed: Keys initial weights, sampled tokens, dropout and what enters the bank.

    Raises:
        UserError: Head `tr`, and crops and frames differ in size.
    """

    name: ClassVar[str] = "cause"
    Config: ClassVar[type[MethodConfig]] = CAUSEConfig
    defaults: ClassVar[Defaults] = Defaults(
        schedule={"train.epochs": 10, "train.batch_size": 16},
        textons={
            "method.window": 3,
            "method.num_codes": 256,
            "method.dim": 64,
            "method.projection_dim": 64,
            "method.clusterbook_epochs": 3,
            "method.clusterbook_lr": 1e-2,
            "method.clusterbook_temperature": 3.0,
            "method.positive_above": 0.9,
            "method.negative_below": 0.6,
            "method.temperature": 0.4,
            "method.lr": 1e-2,
            "method.clip_norm": 2.0,
        },
    )
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage("clusterbook", scored=False),
        Stage("concepts", scored=False),
        Stage("probe"),
    )
    centroids_in: ClassVar[tuple[str, ...]] = ("probe.centroids", "probe.grouped")
    sharpness: ClassVar[float] = 1.0
    teacher_steps: Tensor

    def __init__(
        self, config: CAUSEConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__(config, features, num_clusters, seed)
        if config.head == "tr" and features.grid != features.eval_grid:
            raise UserError(
                "method.head = 'tr' learns one position a token, but data.train_size gives "
                f"{features.grid} and data.eval_size {features.eval_grid} tokens a side. Set them "
                "equal, or method.head=mlp."
            )
        self.config = config
        self.positions = features.eval_grid**2
        generator = shared_generator(seed, self.name, "weights")
        bound = 1 / config.num_codes
        clusterbook = torch.empty(config.num_codes, features.dim)
        self.clusterbook = nn.Parameter(clusterbook.uniform_(-bound, bound, generator=generator))
        tokens = features.grid**2 if config.head == "tr" else None
        sizes = (features.dim, config.dim, config.projection_dim, tokens, config.ffn_dim)
        self.student, self.teacher = (build_network(*sizes, generator) for _ in range(2))
        self.teacher.requires_grad_(requires_grad=False)
        update_teacher(self.teacher, self.student, 0.0)
        self.bank = ConceptBank(config.num_codes, config.projection_dim, config.bank_capacity)
        both = config.clustering == "auto"
        self.probe = ClusterProbe(num_clusters, config.dim, generator, both=both)
        bound = 1 / num_clusters
        nn.init.uniform_(self.probe.centroids, -bound, bound, generator=generator)
        self.register_buffer("teacher_steps", torch.tensor(0))
        # From a loss to the step after it; nothing to remember between steps.
        self._fresh: tuple[Tensor, Tensor, Tensor] | None = None
        self._is_last = self._taught = False

    @classmethod
    def stage_epochs(cls, config: Any, epochs: int) -> tuple[int, ...]:  # noqa: ANN401
        """Gives `train.epochs` to the concepts; the other stages have settings of their own."""
        probe = config.probe_epochs or (1 if config.head == "mlp" else 5)
        return (config.clusterbook_epochs, epochs, 0 if config.clustering == "kmeans" else probe)

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:
        """Keeps how far the student walks, and gives the clusterbook what few images can fill."""
        short = "of codes that have learnt for few steps"
        return (
            rate("method.lr", facts.steps, HEAD / 10),
            rate("method.clusterbook_lr", facts.steps),
            fixed("method.clusterbook_epochs", 3, "as long as most of the concepts"),
            fixed("method.num_codes", 256, "codes that few images can fill"),
            fixed("method.window", max(1, facts.grid // 7), "49 tokens an image, as published"),
            fixed("method.positive_above", 0.9, short, (0.8, 0.95)),
            fixed("method.negative_below", 0.6, short, (0.4, 0.7)),
            fixed("method.clip_norm", 2.0, "of few steps"),
            fixed("method.ema_decay", 0.9, "a teacher that keeps up in few steps"),
        )

    @classmethod
    def untouched(cls, config: Any) -> frozenset[str]:  # noqa: ANN401
        """Names what k-means on the finished codes reads alone."""
        learnt = config.clustering != "kmeans"
        return frozenset() if learnt else frozenset({"num_clusters", "method.context"})

    def param_groups(self, stage: str) -> list[ParamGroup]:
        """Lists what a stage trains: the clusterbook, the student, or the centroids."""
        config = self.config
        if stage == "clusterbook":
            return [ParamGroup([self.clusterbook], config.clusterbook_lr, "adam")]
        if stage == "concepts":
            params, decay = list(self.student.parameters()), config.weight_decay
            clip_norm = config.clip_norm or (0.1 if config.head == "mlp" else 2.0)
            return [ParamGroup(params, config.lr, "adam", decay, clip_norm=clip_norm)]
        # Official schedule: the rate halves every second epoch.
        learnt = [self.probe.centroids]
        return [ParamGroup(learnt, config.probe_lr, "adam", lr_factor=0.5, lr_epochs=2)]

    def draw(self, batch: Batch, stage: str) -> CAUSEDraws:
        """Draws tokens, dropout and the bank's choice for a step.

        Args:
            batch: Its images and step key the draws.
            stage: The stage.

        Returns:
            Draws that depend on each image's id, not on the batch around it.
        """
        key = (self.seed, self.name, stage, batch.step.index)
        config, tokens = self.config, batch.features.tokens
        grid = (tokens.shape[2], tokens.shape[3])
        windows = draw_windows(batch.ids, grid, config.window, *key, "windows")
        sampled = (windows.picks.shape[1], windows.picks.shape[2])
        inputs = grid if config.head == "tr" else sampled
        student = teacher = None
        if stage == "concepts":
            student = self.student.draw_masks(batch.ids, inputs, config.dropout, *key, "student")
        if stage != "clusterbook":
            teacher = self.teacher.draw_masks(batch.ids, inputs, config.dropout, *key, "teacher")
        priorities = uniforms(batch.ids, sampled, *key, "bank", device=tokens.device)
        return CAUSEDraws(windows, student, teacher, priorities)

    def loss(self, batch: Batch, stage: str, draws: CAUSEDraws | None = None) -> StepResult:
        """Computes the loss of a stage, from tokens alone.

        Args:
            batch: Training crops.
            stage: `clusterbook`, `concepts` or `probe`.
            draws: Tokens, dropout and the bank's choice; drawn by `draw` if unset.

        Returns:
            The loss; scalar `codes_used` (share of the clusterbook, or of the centroids, that is
            nearest to a sampled token), in `concepts` also `bank_entries` and `idle_terms` (share
            of images without a positive pair in the batch).
        """
        draws = draws or self.draw(batch, stage)
        self._fresh = None
        if stage == "concepts":
            return self._concept_loss(batch, draws)
        tokens = batch.features.tokens.detach()
        temperature = self.config.clusterbook_temperature
        if stage == "clusterbook":
            return clusterbook_step(draws.windows.pick(tokens), self.clusterbook, temperature)
        with torch.no_grad():
            inputs = self._head_inputs(tokens, draws)
            # Official code: with dropout, although the teacher does not learn.
            codes = self.teacher.codes(inputs, self._queries(inputs), draws.teacher)
        return clusterbook_step(self._sampled(codes, draws), self.probe.centroids, temperature)

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher, and puts the teacher's projections of the step into the bank.

        The first step makes the teacher equal to the student: in the official code the two share
        their memory until then. After the last one the bank has served: it is freed, before a
        checkpoint is saved.
        """
        if self._fresh is None:
            return
        self._taught = self._taught or bool(self.teacher_steps > 0)  # a GPU is asked until it is
        update_teacher(self.teacher, self.student, self.config.ema_decay if self._taught else 0.0)
        self.teacher_steps += 1
        if self._is_last:
            self.bank.clear()
        else:
            rows = row_counts(self._fresh[0])
            values, codes, priorities = (all_gather(part, rows) for part in self._fresh)
            self.bank.update(values, codes, priorities, self.config.bank_share)
        self._fresh = None

    def fit_clusters(self, passes: Passes) -> None:
        """Finds the centroids by k-means unless all are learnt."""
        if self.config.clustering != "probe":
            fit_centroids(self, self.probe, passes, self.positions)

    def clusterings(self) -> Mapping[str, Callable[[], None]]:
        """Names learnt centroids and those of k-means, where it has both."""
        return self.probe.kinds("probe")

    @torch.no_grad()
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns the teacher's codes."""
        tokens = batch.features.tokens
        return self.teacher.codes(tokens, self._queries(tokens))

    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Scores clusters by 3 times the cosine of code and centroid, the official logits."""
        cosines: Tensor = self.probe(codes)
        return _SHARPNESS * cosines

    def upsampled_later(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Scores clusters by projections of the size of `classify`.

        The official code upsamples codes, then takes cosines. Projections may be upsampled
        instead: both are linear, and a code's length does not change which cluster is best.
        """
        return self.probe.projections(codes, _SHARPNESS)

    def _concept_loss(self, batch: Batch, draws: CAUSEDraws) -> StepResult:
        """Contrasts the student's projections with the teacher's and with the bank's."""
        config, clusterbook = self.config, self.clusterbook.detach()
        tokens = self._head_inputs(batch.features.tokens.detach(), draws)
        assigned = nearest_codes(tokens, clusterbook)
        queries = self._queries(tokens, assigned)
        codes = self.student.codes(tokens, queries, draws.student)
        anchors = self.student(self._sampled(codes, draws)).flatten(2).mT
        with torch.no_grad():
            codes = self.teacher.codes(tokens, queries, draws.teacher)
            values = self.teacher(self._sampled(codes, draws)).flatten(2).mT
        assigned = self._sampled(assigned[:, None], draws).flatten()
        fresh = Keys(normalize(values.flatten(0, 1), dim=1), assigned)
        self._fresh = (*fresh, draws.priorities.flatten())
        self._is_last = batch.step.index + 1 == batch.step.total
        thresholds, keys = (config.positive_above, config.negative_below), self.bank.keys()
        within, loss = contrast_concepts(
            anchors, clusterbook, fresh, keys, thresholds=thresholds, temperature=config.temperature
        )
        scalars = {
            "codes_used": share_used(assigned, config.num_codes),
            "bank_entries": torch.tensor(float(len(self.bank))),
            "idle_terms": (within.pairs == 0).float().mean(),
        }
        return StepResult(loss, scalars)

    def _queries(
        self, tokens: Float[Tensor, "B D h w"], assigned: Int64[Tensor, "B h w"] | None = None
    ) -> Float[Tensor, "B D h w"] | None:
        """Looks up the clusterbook row of every token, as it is; nothing for `mlp`."""
        if self.config.head == "mlp":
            return None
        clusterbook = self.clusterbook.detach()
        nearest = nearest_codes(tokens, clusterbook) if assigned is None else assigned
        return clusterbook[nearest].permute(0, 3, 1, 2)

    def _head_inputs(
        self, tokens: Float[Tensor, "B D h w"], draws: CAUSEDraws
    ) -> Float[Tensor, "B D r c"]:
        """Returns the tokens that a head must see: `mlp` the sampled ones, `tr` all of them."""
        return draws.windows.pick(tokens) if self.config.head == "mlp" else tokens

    def _sampled(
        self, maps: Shaped[Tensor, "B C h w"], draws: CAUSEDraws
    ) -> Shaped[Tensor, "B C r c"]:
        """Picks the sampled tokens from a map of a head's inputs or outputs."""
        return maps if self.config.head == "mlp" else draws.windows.pick(maps)
