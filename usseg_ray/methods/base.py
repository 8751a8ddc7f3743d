"""The contract between a method and the engine.

A method owns its heads, its loss and its label-free clusters. It owns no device, rank, logger,
path or clock: the engine (`engine.run`) walks the stages, steps the optimisers and keeps the state.
Its batches have no label field, so a label cannot reach it. Everything that a run must remember is
a parameter or a registered buffer, so that one `state_dict` resumes all of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from usseg_ray.core.calibration import Choice, Facts
from usseg_ray.core.config import MethodConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureSpec, Needs, Step, StepResult
from usseg_ray.ops.context import averaged
from usseg_ray.ops.largest import argmax

__all__ = ["CodeClassifier", "Defaults", "Method", "Needs", "ParamGroup", "Passes", "Stage"]


@runtime_checkable
class Passes(Protocol):
    """Fresh walks over this worker's share of the training images."""

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:
        """Walks every image once, in order, framed as for evaluation.

        Args:
            only: Ids of the images that matter, if not all do; a few others may come with them.
        """

    def names(self) -> Sequence[str]:
        """Lists the ids of all images; none is read for it."""

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:
        """Walks every image once, shuffled and framed as in training.

        All workers get the same number of batches, and the order and make-up of the joint batches
        do not depend on how many workers share them.

        Args:
            walk: Keys order and views; equal to the epoch, it gives the views of its first walk.
            batch_size: Images per batch, over all workers; the last may be smaller.
        """


class Stage(NamedTuple):
    """A named training phase.

    Attributes:
        name: As in logs and checkpoints.
        scored: Whether its epochs end with a score. A stage without one is never stopped early.
            The last epoch of a run is scored in any stage.
    """

    name: str
    scored: bool = True


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that learn together, and how.

    Attributes:
        params: The parameters.
        lr: Learning rate after warm-up.
        optimiser: AdamW decouples weight decay from the gradient; Adam adds it (L2).
        weight_decay: Weight decay.
        betas: Moment decays.
        clip_norm: Largest gradient norm of the group; `None` for no clipping.
        warmup_steps: Steps of linear warm-up from 0.
        lr_factor: The rate is multiplied by it every `lr_epochs` epochs of the stage.
        lr_epochs: See `lr_factor`.
    """

    params: list[nn.Parameter]
    lr: float
    optimiser: Literal["adamw", "adam"] = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    warmup_steps: int = 0
    lr_factor: float = 1.0
    lr_epochs: int = 1


@dataclass(frozen=True)
class Defaults:
    """What a circumstance changes in a run's settings for one method, as dotted keys and values.

    They lie above the defaults of the settings themselves, a later attribute above an earlier one,
    and below all that is chosen: a preset, `fixed` of a search space, a sample, `--set`.

    Attributes:
        schedule: How long it learns, and in what portions: as its official settings for
            COCO-Stuff; a pass over five crops of each image counts as five epochs.
        embedded: On the embedded set, beside what that set brings for every method.
        textons: On the backbone `textons`, wherever the images come from: tokens of 15 dimensions,
            whose cosines are all high, and far fewer steps than a published schedule takes.
        trained: Above everything where a trained state is loaded: nothing to start from is fetched.
    """

    schedule: Mapping[str, Any] = field(default_factory=dict)
    embedded: Mapping[str, Any] = field(default_factory=dict)
    textons: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """One way to segment without labels.

    Args:
        config: The method's settings.
        features: What the backbone gives.
        num_clusters: K, the number of groups that prediction tells apart.
        seed: Keys every draw of the method.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    defaults: ClassVar[Defaults] = Defaults()
    stages: ClassVar[tuple[Stage, ...]] = (Stage("train"),)
    sharpness: ClassVar[float] = 2.0
    """Its scores times this are the logits that a CRF starts from; official code takes 2 cosines
    (STEGO, HP, SmooSeg)."""
    centroids_in: ClassVar[tuple[str, ...]] = ()
    """Entries that its state may have, with a row for each cluster, the nearest of which decides:
    such clusters can be split in two."""
    without_centroid: int = 0
    """Clusters in front of those, that something else decides."""
    spherical: bool = True
    """Whether nearest means by cosine."""

    def __init__(
        self, config: MethodConfig, features: FeatureSpec, num_clusters: int, seed: int
    ) -> None:
        super().__init__()
        self.num_clusters = num_clusters
        self.seed = seed
        self.context = config.context
        needs = self.needs(config)
        asked = {
            "last-block attention": needs.attention is not None or needs.local_attention,
            "CLS tokens": needs.crop_tokens,
        }
        for what in (name for name, wanted in asked.items() if wanted):
            if not features.has_attention:
                raise UserError(
                    f"method {self.name!r} asks for {what}, which this backbone does not have. "
                    "Choose a ViT (backbone.name) or switch the option off."
                )

    @classmethod
    def needs(cls, config: Any) -> Needs:  # noqa: ANN401, ARG003
        """Says what the data path must give; most methods need patch tokens alone."""
        return Needs()

    @classmethod
    def stage_epochs(cls, config: Any, epochs: int) -> tuple[int, ...]:  # noqa: ANN401, ARG003
        """Says how long each stage takes; `epochs` is `train.epochs`."""
        return (epochs,) * len(cls.stages)

    @classmethod
    def calibrated(cls, facts: Facts) -> tuple[Choice, ...]:  # noqa: ARG003
        """States which of its settings follow from the data, and how; see `parts.rules`.

        Thresholds are left out where the facts lack statistics: the published ones stay.
        """
        return ()

    @classmethod
    def untouched(cls, config: Any) -> frozenset[str]:  # noqa: ANN401, ARG003
        """Names settings that its training does not read: only clusters and scores do.

        Trials of a sweep that agree on all others are trained once. What such a setting
        changes of the state are entries of `centroids_in`.

        Args:
            config: The method's settings.

        Returns:
            Dotted keys; nothing where K takes part in the training.
        """
        return frozenset()

    def param_groups(self, stage: str) -> list[ParamGroup]:  # noqa: ARG002
        """Lists what learns in a stage; nothing for a method that only clusters."""
        return []

    def on_epoch_start(self, stage: str, epoch: int, passes: Passes) -> None:
        """Prepares an epoch, for example PiCIE's k-means.

        Args:
            stage: The stage.
            epoch: Epochs of the run before this one, over all stages: the key of its views.
            passes: Walks over this worker's training images.
        """

    def before_step(self, stage: str, step: Step, passes: Passes) -> None:
        """Prepares a step, for example by renewing HP's reference pools."""

    def loss(self, batch: Batch, stage: str) -> StepResult:
        """Computes the loss of one step; only methods with stages have one."""
        raise TypeError(
            f"{self.name} has no stage {stage!r} that learns from {len(batch.ids)} images"
        )

    def after_step(self) -> None:
        """Updates moving averages and banks after an optimiser step."""

    @abstractmethod
    def fit_clusters(self, passes: Passes) -> None:
        """Finds the K groups without labels; called before every score.

        Workers call it together; the groups must not depend on how images are split over them.
        """

    def clusterings(self) -> Mapping[str, Callable[[], None]]:
        """Names the kinds of clusters that it has fitted, with what takes each, if it has several.

        The run keeps the one that a criterion without labels prefers.
        """
        return {}

    @abstractmethod
    def describe(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns what describes every position by itself, detached from the graph."""

    @torch.no_grad()
    def encode(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Returns codes: what is grouped, predicted from and given to the linear probe.

        They are descriptions, averaged within their image where `method.context` asks for it.
        """
        codes = self.describe(batch)
        return codes if self.context is None else averaged(codes, self.context)

    @abstractmethod
    def predict(self, batch: Batch) -> Float[Tensor, "B K h w"]:
        """Returns cluster scores, larger is likelier, at any resolution.

        Scoring upsamples them bilinearly to the label's size and takes the argmax.
        """

    def members(self, batch: Batch, cluster: int) -> Float[Tensor, "n C"]:
        """Returns what the images have in a cluster, of what was grouped: codes, or regions.

        Args:
            batch: Images.
            cluster: One that `centroids_in` has a row of.
        """
        raise TypeError(f"{self.name} has no centroid of {cluster} for {len(batch.ids)} images")

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Float[Tensor, "B K h w"]:
        """Returns cluster scores by an image and its mirror image together: their mean.

        Args:
            batch: Images.
            mirrored: The same images, mirrored left to right.
        """
        return (self.predict(batch) + self.predict(mirrored).flip(-1)) / 2


class CodeClassifier(Method):
    """A method whose prediction is a function of its codes."""

    @abstractmethod
    def classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Returns cluster scores of codes, larger is likelier."""

    def upsampled_later(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """Returns cluster scores of codes that are upsampled before the largest is taken.

        They are those of `classify`, unless others come nearer to upsampling the codes themselves.
        """
        return self.classify(codes)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Float[Tensor, "B K h w"]:
        """Classifies the codes of images."""
        return self.upsampled_later(self.encode(batch))

    @torch.no_grad()
    def members(self, batch: Batch, cluster: int) -> Float[Tensor, "n C"]:
        """Returns the codes that are classified so."""
        codes = self.encode(batch)
        return codes.movedim(1, -1)[argmax(self.classify(codes), 1) == cluster]

    @torch.no_grad()
    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Float[Tensor, "B K h w"]:
        """Classifies the mean of the codes of an image and of its mirror image.

        Reference:
            STEGO (ICLR 2022) and CAUSE (2023), official evaluation.
        """
        return self.upsampled_later((self.encode(batch) + self.encode(mirrored).flip(-1)) / 2)
