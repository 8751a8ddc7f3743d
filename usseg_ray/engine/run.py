"""The engine: fits one method, stage by stage, and scores it along the way.

It needs torch alone; what surrounds a run is a `RunContext`.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch

from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.distributed import all_gather, rank, world_size
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, LabelledImages
from usseg_ray.data.plans import walks_in_epoch
from usseg_ray.data.reader import Reader
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.context import RunContext
from usseg_ray.engine.epoch import SPEED, Epoch
from usseg_ray.engine.model import Model, build_model
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.base import Method, Passes, Stage
from usseg_ray.ops.neighbours import nearest_neighbours
from usseg_ray.scoring.evaluation import (
    Evaluation,
    GroundTruth,
    RefinementResult,
    evaluate,
    ground_truth,
    score_metrics,
    segment,
    show,
    telling_rows,
)
from usseg_ray.scoring.label_free import Judge
from usseg_ray.scoring.linear_probe import Encode, fit_linear_probe
from usseg_ray.scoring.objective import KINDS, WITHOUT_LABELS, kept_clusters
from usseg_ray.scoring.prediction import Predictor, Refiners
from usseg_ray.scoring.protocols import Refinement, find_protocol

PROBE_BATCHES = 128
SEGMENTED = 64
"""Images that are looked at where there are no labels to score them by."""

Watch = Callable[[str, int, int], None]


def _unwatched(what: str, done: int, total: int) -> None:
    """Takes what nobody watches."""


@dataclass
class Run(Model):
    """Everything that fitting one method needs: a model on the context's device, and more.

    Attributes:
        reader: This worker's data.
        truth: Meaning of the labels, or `None` for unlabelled data.
        context: What surrounds the run.
        watch: Is told how far an evaluation is: what, images done, images in all.
    """

    reader: Reader
    truth: GroundTruth | None
    context: RunContext
    watch: Watch = _unwatched

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; a method without stages has one, that of its clustering."""
        return sum(self._stage_epochs()) or 1

    @property
    def passes(self) -> Passes:
        """Walks over its training images, as its method is given them."""
        return _TrainingPasses(self)

    def _stage_epochs(self) -> tuple[int, ...]:
        config = self.config
        return self.method.stage_epochs(config.method, config.train.epochs)

    @cached_property
    def _judge(self) -> Judge:
        config = self.config
        size, keep = config.train.eval_batch_size, config.data.keep_mib * 2**20
        return Judge(self.featurise, self.reader, batch_size=size, keep_bytes=keep)

    def fit(self) -> None:
        """Walks the stages from wherever the context left off, reporting every epoch.

        Raises:
            NonFiniteLossError: A loss is not a number.
        """
        state = self.context.restore()
        if state is None and (trained := self.context.trained()) is not None:
            self._take_over(trained)
            return
        if state is not None:
            self.method.load_state_dict(state.method)
            if state.epoch >= self.epochs:
                # Whoever saved this may not have lived to report it.
                self.context.report(state.metrics, state, None)
        done = state.epoch if state is not None else 0
        midway = state is not None and state.part is not None
        before = 0
        for stage, epochs in zip(self.method.stages, self._stage_epochs(), strict=True):
            if done < before + epochs:
                begun = before < done or (before == done and midway)
                epochs_left = range(max(done, before), before + epochs)
                self._fit_stage(stage, epochs, epochs_left, state if begun else None)
            before += epochs
        if not self.method.stages and done == 0:
            self._finish_epoch(Stage("clusters"), 1, {}, None)

    def _take_over(self, trained: RunState) -> None:
        """Clusters and scores what another run trained, as if it had been this one."""
        self.method.load_state_dict(self.method.state_dict() | trained.method)
        self._finish_epoch(self.method.stages[-1], self.epochs, dict(trained.metrics), None)

    def _fit_stage(self, stage: Stage, length: int, epochs: range, state: RunState | None) -> None:
        """Trains what is left of a stage.

        Args:
            stage: The stage.
            length: Its epochs.
            epochs: Numbers of the epochs left, counted over all stages.
            state: What to go on from; `None` at the stage's start.
        """
        steps, batch_size = self._portions()
        optimiser = Optimiser(self.method.param_groups(stage.name), steps)
        if state is not None:
            optimiser.load_state_dict(state.optimiser)
        if self.featurise.needs.neighbours and self.reader.neighbours is None:
            self.reader.neighbours = self._neighbours()
        passes, where, total = self.passes, stage.name, length * steps
        part = state.part if state is not None else None
        stream = self.reader.training(epochs, steps, batch_size)
        for epoch, batches in zip(epochs, stream, strict=True):
            self.method.train()
            current = Epoch(self.method, self.featurise, optimiser, passes, where, total)
            if part is None:
                self.method.on_epoch_start(where, epoch, passes)
            else:
                current.take_up(part)
                part = None
            metrics = current.train(batches, partial(self._after_step, epoch, current))
            self._finish_epoch(stage, epoch + 1, metrics, optimiser)

    def _neighbours(self) -> np.ndarray:
        """Finds every training image's most similar ones by their mean token (STEGO's table)."""
        means = [batch.features.tokens.mean((2, 3)) for batch in self.passes()]
        if not means:
            raise UserError("a worker has no training image; lower resources.num_workers.")
        rows = all_gather(torch.cat(means))
        return nearest_neighbours(rows, self.featurise.needs.neighbours + 1).cpu().numpy()

    def _portions(self) -> tuple[int, int]:
        """Computes steps per epoch and images per step of this worker."""
        train, world = self.config.train, world_size()
        if train.batch_size % world:
            raise UserError(
                f"train.batch_size = {train.batch_size} is not divisible by {world} workers."
            )
        rows = self.reader.manifest.splits[self.config.data.train_split].rows // world
        if rows == 0:
            raise UserError(f"{world} workers for fewer images; lower resources.num_workers.")
        batch_size = min(train.batch_size // world, rows)
        return train.steps_per_epoch or rows // batch_size, batch_size

    def first_walk(self, key: int) -> int:
        """Returns the walk that an epoch begins with; a key that is no epoch's is a walk itself."""
        if key >= self.epochs:
            return key
        steps, batch_size = self._portions()
        rows = steps * batch_size * world_size()
        return key * walks_in_epoch(self.reader.manifest, self.config.data.train_split, rows)

    def _after_step(self, epoch: int, current: Epoch) -> None:
        def state() -> RunState:
            return replace(self._state(epoch, {}, current.optimiser), part=current.part)

        self.context.after_step(state)

    def _state(
        self, epoch: int, metrics: dict[str, float], optimiser: Optimiser | None
    ) -> RunState:
        learning = optimiser.state_dict() if optimiser else {}
        return RunState(epoch, metrics, self.method.state_dict(), learning)

    def _finish_epoch(
        self, stage: Stage, epoch: int, metrics: dict[str, float], optimiser: Optimiser | None
    ) -> None:
        last = epoch >= self.epochs
        learnt = {name: value for name, value in metrics.items() if name not in SPEED}
        evaluation = None
        if last or (stage.scored and epoch % self.config.train.eval_every == 0):
            started = time.monotonic()
            metrics |= self.fit_clusters()
            evaluation = self.score(self.config.data.selection_split, refit=False)
            scored = time.monotonic()
            judgement = self._judge(self.method)
            evaluation = replace(evaluation, fixed=judgement.maps)
            ended = time.monotonic()
            metrics |= {"eval_seconds": ended - started, "label_free_seconds": ended - scored}
            metrics |= score_metrics(evaluation, self.truth) | judgement.metrics
        metrics = {"epoch": float(epoch), **metrics}
        if last:
            state = self.method.state_dict()
            shared = {name: state[name] for name in state if name not in self.method.centroids_in}
            self.context.leave(RunState(epoch, learnt, shared))
        self.context.report(metrics, self._state(epoch, metrics, optimiser), evaluation)

    def fit_clusters(self) -> dict[str, float]:
        """Fits the clusters without labels; of several kinds keeps what a criterion prefers.

        Returns:
            The criterion of each kind, as metrics; nothing where there is one kind.
        """
        self.method.eval()
        self.method.fit_clusters(self.passes)
        kinds, found = self.method.clusterings(), dict[str, float]()
        for name, take in kinds.items():
            take()
            found[f"{KINDS}{name}"] = self._judge(self.method).metrics[WITHOUT_LABELS]
        if kept := kept_clusters(found):
            kinds[kept]()
        return found

    def score(
        self,
        split: str,
        *,
        refit: bool = True,
        examples: bool = True,
        refining: Refiners = Refiners(),  # noqa: B008 (frozen)
    ) -> Evaluation:
        """Fits the clusters without labels, then scores a split (or segments it, unlabelled).

        Args:
            split: Which split.
            refit: Whether to fit the clusters again, or to keep those of the loaded state.
            examples: Whether to keep a few images of a labelled split for pictures.
            refining: What to score beside the plain prediction.

        Returns:
            The evaluation, with scores where the split has labels.
        """
        self.method.eval()
        if refit:
            self.fit_clusters()
        size = self.config.train.eval_batch_size
        predictor = self.predictor(refining=refining)
        splits = self.reader.manifest.splits
        if self.truth is None or split not in splits or not splits[split].labelled:
            seen = split if split in splits else self.config.data.train_split
            return segment(predictor, self.reader.few(seen, SEGMENTED, size))
        evaluation = self._evaluated(predictor, split, self.truth, None)
        if rank() > 0 or not examples:
            return evaluation
        rows = self.reader.labelled_rows(split, telling_rows(evaluation))
        return replace(evaluation, examples=show(predictor, rows, evaluation))

    def linear(
        self,
        *splits: str,
        encode: Encode | None = None,
        refining: Refiners = Refiners(),  # noqa: B008 (frozen)
    ) -> list[Mapping[Refinement, RefinementResult]]:
        """Trains a linear probe on codes of the training split and scores splits with it.

        At most `PROBE_BATCHES` batches of training images are used. Nothing of the method changes.

        Args:
            splits: Which splits; they and the training split have labels.
            encode: Makes the codes; the method does if unset.
            refining: What to score beside the plain prediction.

        Raises:
            UserError: The training split has no labels.
        """
        train = self.config.data.train_split
        labelled = self.reader.manifest.splits[train].labelled
        if self.truth is None or not labelled:
            raise UserError(f"a linear probe needs labels, and split {train!r} has none.")
        self.method.eval()
        size = self.config.train.eval_batch_size
        batches = islice(self.reader.labelled(train, size, square=True), PROBE_BATCHES)
        probe = fit_linear_probe(
            encode or self.method.encode,
            self.featurise,
            self._watched("Linear probe", batches, min(labelled, PROBE_BATCHES * size)),
            self.truth,
            seed=self.config.seed,
        )
        known = np.arange(len(self.truth.classes))
        predictor = self.predictor(probe, refining)
        truth = self.truth
        return [self._evaluated(predictor, split, truth, known).results for split in splits]

    def _evaluated(
        self, predictor: Predictor, split: str, truth: GroundTruth, class_of: np.ndarray | None
    ) -> Evaluation:
        total = self.reader.manifest.splits[split].labelled
        batches = self.reader.labelled(split, self.config.train.eval_batch_size)
        return evaluate(
            predictor,
            self._watched(f"Scoring {split}", batches, total),
            truth,
            expected_rows=total,
            device=self.context.device,
            class_of=class_of,
        )

    def _watched(
        self, what: str, batches: Iterable[LabelledImages], total: int
    ) -> Iterator[LabelledImages]:
        done = 0
        for labelled in batches:
            yield labelled
            done += len(labelled.numbers)
            self.watch(what, done, total)


@dataclass(frozen=True)
class _TrainingPasses:
    """A run's walks over its training images, as its method is given them."""

    run: Run

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:
        config = self.run.config
        split, size = config.data.train_split, config.train.eval_batch_size
        featurise = self.run.featurise
        return map(featurise, featurise.ahead(self.run.reader.passes(split, size, only)))

    def names(self) -> list[str]:
        return self.run.reader.names(self.run.config.data.train_split)

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:
        featurise = self.run.featurise
        images = self.run.reader.crops(self.run.first_walk(walk), batch_size)
        return map(featurise.crops, featurise.ahead(images))


def assemble(
    config: Config[MethodConfig], method_class: type[Method], data: OpenSet, context: RunContext
) -> Run:
    """Builds a run of a method on a set from resolved settings.

    Args:
        config: The settings; `num_clusters` is a number.
        method_class: The method whose settings these are.
        data: What to learn from.
        context: What surrounds the run.

    Returns:
        A run, ready to fit or to score.

    Raises:
        UserError: Sizes, weights or settings do not fit together.
    """
    model = build_model(config, method_class, context.device, data.stored)
    reader = Reader(
        data.root,
        data.manifest,
        config.data,
        seed=config.seed,
        rank=rank(),
        world=world_size(),
        stream=data.stream,
        frame=find_protocol(config.protocol).frame(config.data.eval_size),
        pair=model.featurise.needs.pair,
        names_only=model.featurise.without_pixels,
        kept=data.kept,
    )
    return Run(
        config,
        model.method,
        model.featurise,
        reader=reader,
        truth=ground_truth(data.manifest),
        context=context,
    )
