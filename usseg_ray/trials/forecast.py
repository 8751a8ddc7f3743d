"""How long a trial will take, judged by two seconds of it, to choose the form that trials run in.

A worker group takes 10 s and more before it learns anything. That is nothing beside an hour, and
most of a short trial; so where the user leaves the choice open, short trials run in their own
process.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from usseg_ray.core.config import Config, MethodConfig, TrainConfig
from usseg_ray.core.types import Batch
from usseg_ray.data.manifest import Manifest, ShardInfo, load_manifest, split_totals
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.context import RunContext
from usseg_ray.engine.run import Run
from usseg_ray.features.backbones import feature_spec
from usseg_ray.features.store.store import FeatureStore
from usseg_ray.methods.base import Passes
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.trials.job import Job
from usseg_ray.trials.worker import build_run

SHORT_S = 60.0
BUDGET_S = 2.0
ROWS = 16
STEPS = 2
NEVER = 10**9
POINTS_PER_CLUSTER = 500
"""So many codes of a cluster k-means looks at, at most."""


@dataclass(frozen=True)
class TrialForm:
    """The form that trials run in.

    Attributes:
        num_workers: 0 for the trial's own process, 1 for a worker group.
        reason: The choice in a line for the user, with the other one's option.
    """

    num_workers: int
    reason: str


def choose(seconds: float) -> TrialForm:
    """Chooses by the duration of the longest method's first trial, in seconds."""
    if seconds < SHORT_S:
        return TrialForm(
            0,
            f"Trials run in their own process: about {seconds:.0f} s each "
            "(--workers-per-trial 1 for worker groups)",
        )
    return TrialForm(
        1,
        f"Each trial has a worker group: about {seconds / 60:.0f} min each "
        "(--workers-per-trial 0 for the trial's own process)",
    )


def longest_seconds(jobs: list[Job]) -> float:
    """Estimates how long the longest of several jobs takes, in this process.

    Args:
        jobs: The first trial of each method.

    Returns:
        Seconds of training and scoring, starting up left out.
    """
    return max(trial_time(job, BUDGET_S / len(jobs)).seconds for job in jobs)


@dataclass(frozen=True)
class TrialTime:
    """How long a trial takes, starting up left out.

    Attributes:
        training: Seconds of training.
        scoring: Seconds of finding clusters and scoring once.
        scores: How many times that is done.
    """

    training: float
    scoring: float = 0.0
    scores: int = 1

    @property
    def seconds(self) -> float:
        """Of the whole trial."""
        return self.training + self.scores * self.scoring


def trial_time(
    job: Job,
    budget: float = BUDGET_S,
    store: FeatureStore | None = None,
    *,
    scored: bool = False,
) -> TrialTime:
    """Estimates how long a job takes from epochs of a few steps on its first images.

    Steps are taken to last as long as they have images, walks as long as the split has, and
    k-means as long as its sample has tokens. Of several stages the first is measured.

    Args:
        job: What to fit.
        budget: Seconds of training; the second epoch is measured whatever it takes, since the
            first may wait for code that is loaded.
        store: Has the features of an `excerpt` that the job names; the environment's if unset.
        scored: Whether scoring is measured also where training alone is long.
    """
    whole = load_manifest(job.root)
    data, train = job.config.data, job.config.train
    learnt, split = data.train_split, data.selection_split
    split = split if split in whole.splits else learnt
    part = excerpt(whole, {learnt, split})
    batch_size = min(train.batch_size, part.splits[learnt].rows)
    device = torch.device(job.placement.device)
    worked = clock_of(job.config, device)
    clock = _Clock(device, batch_size, worked, budget)
    short = job.with_training(steps_per_epoch=STEPS, eval_every=NEVER)
    run = build_run(short.reading_itself(), clock, part, store)
    walks = {name: whole.splits[name].rows / part.splits[name].rows for name in part.splits}
    seconds = 0.0
    if run.method.stages:
        clock.follow(run)
        images = _epoch_images(train, whole.splits[learnt].rows)
        walked = walks[learnt] * clock.walk_seconds
        seconds = run.epochs * (images * clock.image_seconds + walked + clock.rest_seconds)
    if seconds > SHORT_S and not scored:
        return TrialTime(seconds)
    passes, started = _TimedPasses(run.passes, worked), worked()
    run.method.eval()
    run.method.fit_clusters(passes)
    fitted = worked()
    run.score(split, refit=False)
    score, walk = worked() - fitted, passes.ended - started
    # What follows the walks over all images grows with the sample of codes that they gave.
    tokens = part.splits[learnt].rows * feature_spec(job.config.backbone, data).eval_grid ** 2
    sampled = min(walks[learnt], max(1.0, POINTS_PER_CLUSTER * job.num_clusters / tokens))
    scoring = score * walks[split] + walk * walks[learnt] + (fitted - passes.ended) * sampled
    return TrialTime(seconds, scoring, max(run.epochs // train.eval_every, 1))


class _TimedPasses:
    """Walks that tell when the last one ended.

    Attributes:
        ended: Seconds that the process had worked by then, or when this was made.
    """

    def __init__(self, passes: Passes, worked: Callable[[], float]) -> None:
        self._passes, self._worked = passes, worked
        self.ended = worked()

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:
        yield from self._passes(only)
        self.ended = self._worked()

    def names(self) -> Sequence[str]:
        return self._passes.names()

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:
        yield from self._passes.crops(walk, batch_size)
        self.ended = self._worked()


class _EnoughError(Exception):
    """The budget is spent."""


class _Clock(RunContext):
    """A context that keeps the times of a run's last epoch and breaks it off in time.

    Args:
        device: Where to compute.
        images: Of a step.
        worked: Reads the seconds that this process has worked.
        budget: Seconds after which to break off.

    Attributes:
        image_seconds: Of an image in the steps.
        walk_seconds: Of how a method begins an epoch, such as PiCIE's k-means.
        rest_seconds: Of what an epoch does besides, however many images it has.
    """

    def __init__(
        self, device: torch.device, images: int, worked: Callable[[], float], budget: float
    ) -> None:
        self.device = device
        self.image_seconds = self.walk_seconds = self.rest_seconds = 0.0
        self._images, self._worked, self._budget = images, worked, budget
        self._started = time.monotonic()
        self._reported, self._epochs = worked(), 0
        self._steps = list[float]()

    def follow(self, run: Run) -> None:
        """Fits the run until the budget is spent."""
        begin = run.method.on_epoch_start

        def timed(stage: str, epoch: int, passes: Passes) -> None:
            before = self._worked()
            begin(stage, epoch, passes)
            self.walk_seconds = self._worked() - before

        run.method.on_epoch_start = timed  # type: ignore[method-assign]
        self._started, self._reported = time.monotonic(), self._worked()
        with suppress(_EnoughError):
            run.fit()

    def report(
        self,
        metrics: dict[str, float],  # noqa: ARG002
        state: RunState,  # noqa: ARG002
        evaluation: Evaluation | None,  # noqa: ARG002
    ) -> None:
        """Takes an epoch's times: a walk comes before its steps, and scoring after them."""
        self._epochs += 1
        first, last = self._steps[0], self._steps[-1]
        step = (last - first) / (len(self._steps) - 1)
        self.image_seconds = step / self._images
        besides = last - self._reported - len(self._steps) * step
        self.rest_seconds = max(besides - self.walk_seconds, 0.0)
        self._reported, self._steps = self._worked(), []
        if self._epochs > 1 and time.monotonic() - self._started > self._budget:
            raise _EnoughError

    def after_step(self, state: Callable[[], RunState]) -> None:  # noqa: ARG002
        """Notes when the step ended."""
        self._steps.append(self._worked())


def clock_of(config: Config[MethodConfig], device: torch.device) -> Callable[[], float]:
    """Chooses what seconds are measured on: what this process works, whatever others do.

    A busy machine makes the wall's clock run on and would send short trials into worker groups. A
    GPU's work is not in this process's CPU time, and a trial has its GPU to itself.

    Args:
        config: Of a trial; says its threads.
        device: Where it computes.
    """
    if device.type != "cpu":
        return time.monotonic
    threads = config.resources.threads
    return lambda: time.process_time() / threads


def _epoch_images(train: TrainConfig, rows: int) -> int:
    """Counts the images of all steps of an epoch."""
    batch_size = min(train.batch_size, rows)
    return (train.steps_per_epoch or rows // batch_size) * batch_size


def excerpt(manifest: Manifest, splits: Iterable[str], rows: int = ROWS) -> Manifest:
    """Leaves the first rows of some splits, or all rows of a smaller one.

    Args:
        manifest: Of the whole set.
        splits: Names of those that are left.
        rows: How many are left of each.
    """
    shards = []
    for split in splits:
        left = rows
        for shard in manifest.shards_of(split):
            groups = []
            for size in shard.row_groups:
                groups.append(min(size, left))
                left -= groups[-1]
            shards.append(_cut(shard, tuple(size for size in groups if size)))
            if not left:
                break
    return manifest.model_copy(update={"shards": tuple(shards), "splits": split_totals(shards)})


def _cut(shard: ShardInfo, row_groups: tuple[int, ...]) -> ShardInfo:
    """Shortens a shard; of one that is labelled in part nobody knows which rows are."""
    rows = sum(row_groups)
    labelled = rows if shard.labelled == shard.rows else 0
    return shard.model_copy(update={"row_groups": row_groups, "rows": rows, "labelled": labelled})
