"""How long a trial will take, judged by two seconds of it, to choose the form that trials run in.

A worker group takes 10 s and more before it learns anything. That is nothing beside an hour, and
most of a short trial; so where the user leaves the choice open, short trials run in their own
process.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from usseg_ray.core.config import TrainConfig
from usseg_ray.data.manifest import Manifest, ShardInfo, load_manifest, split_totals
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.engine.run import Run
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.trials.job import Job
from usseg_ray.trials.worker import build_run

SHORT_S = 60.0
BUDGET_S = 2.0
ROWS = 16
STEPS = 2
NEVER = 10**9


@dataclass(frozen=True)
class Choice:
    """The form that trials run in.

    Attributes:
        num_workers: 0 for the trial's own process, 1 for a worker group.
        reason: The choice in a line for the user, with the other one's option.
    """

    num_workers: int
    reason: str


def choose(seconds: float) -> Choice:
    """Chooses by the duration of the longest method's first trial, in seconds."""
    if seconds < SHORT_S:
        return Choice(
            0,
            f"Trials run in their own process: about {seconds:.0f} s each "
            "(--workers-per-trial 1 for worker groups)",
        )
    return Choice(
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
    return max(trial_seconds(job, BUDGET_S / len(jobs)) for job in jobs)


def trial_seconds(job: Job, budget: float = BUDGET_S) -> float:
    """Estimates how long a job takes from epochs of a few steps on its first images.

    Steps are taken to last as long as they have images, and walks as long as the split has. Of
    several stages the first is measured. Scoring is left out where training alone is long.

    Args:
        job: What to fit.
        budget: Seconds of training; the second epoch is measured whatever it takes, since the
            first may wait for code that is loaded.

    Returns:
        Seconds of training and scoring, starting up left out.
    """
    whole = load_manifest(job.root)
    data, train = job.config.data, job.config.train
    learnt, scored = data.train_split, data.selection_split
    scored = scored if scored in whole.splits else learnt
    part = _excerpt(whole, {learnt, scored})
    batch_size = min(train.batch_size, part.splits[learnt].rows)
    clock = _Clock(torch.device(job.placement.device), STEPS * batch_size, budget)
    short = job.with_training(steps_per_epoch=STEPS, eval_every=NEVER)
    run = build_run(short.reading_itself(), clock, part)
    walks = {name: whole.splits[name].rows / part.splits[name].rows for name in part.splits}
    seconds = 0.0
    if run.method.stages:
        clock.follow(run)
        images = _epoch_images(train, whole.splits[learnt].rows)
        seconds = run.epochs * (images * clock.image_seconds + walks[learnt] * clock.walk_seconds)
    if seconds > SHORT_S:
        return seconds
    run.score(scored, refit=True)
    score = _timed(run, scored, refit=False)
    refit = max(_timed(run, scored, refit=True) - score, 0)
    score = score * walks[scored] + refit * walks[learnt]
    return seconds + max(run.epochs // train.eval_every, 1) * score


class _EnoughError(Exception):
    """The budget is spent."""


class _Clock:
    """A context that keeps the times of a run's last epoch and breaks it off in time.

    Attributes:
        device: Where to compute.
        image_seconds: Of an image in the steps.
        walk_seconds: Of what an epoch does besides, such as PiCIE's k-means.
    """

    def __init__(self, device: torch.device, images: int, budget: float) -> None:
        self.device = device
        self.image_seconds = self.walk_seconds = 0.0
        self._images, self._budget = images, budget
        self._started = self._reported = 0.0
        self._epochs = 0

    def follow(self, run: Run) -> None:
        """Fits the run until the budget is spent."""
        self._started = self._reported = time.monotonic()
        with suppress(_EnoughError):
            run.fit()

    def report(
        self,
        metrics: dict[str, float],
        state: RunState,  # noqa: ARG002
        evaluation: Evaluation | None,  # noqa: ARG002
    ) -> None:
        """Takes an epoch's times."""
        now, self._epochs = time.monotonic(), self._epochs + 1
        self.image_seconds = 1 / metrics["images_per_second"]
        besides = now - self._reported - metrics.get("eval_seconds", 0.0)
        self.walk_seconds = max(besides - self._images * self.image_seconds, 0.0)
        self._reported = now
        if self._epochs > 1 and now - self._started > self._budget:
            raise _EnoughError

    def after_step(self, state: Callable[[], RunState]) -> None:
        """Lets the step pass."""

    def restore(self) -> None:
        """Starts at the beginning."""


def _timed(run: Run, split: str, *, refit: bool) -> float:
    started = time.monotonic()
    run.score(split, refit=refit)
    return time.monotonic() - started


def _epoch_images(train: TrainConfig, rows: int) -> int:
    """Counts the images of all steps of an epoch."""
    batch_size = min(train.batch_size, rows)
    return (train.steps_per_epoch or rows // batch_size) * batch_size


def _excerpt(manifest: Manifest, splits: set[str]) -> Manifest:
    """Leaves the first `ROWS` rows of some splits, or all rows of a smaller one."""
    shards = []
    for split in splits:
        left = ROWS
        for shard in manifest.shards_of(split):
            groups = []
            for rows in shard.row_groups:
                groups.append(min(rows, left))
                left -= groups[-1]
            shards.append(_cut(shard, tuple(rows for rows in groups if rows)))
            if not left:
                break
    return manifest.model_copy(update={"shards": tuple(shards), "splits": split_totals(shards)})


def _cut(shard: ShardInfo, row_groups: tuple[int, ...]) -> ShardInfo:
    """Shortens a shard; of one that is labelled in part nobody knows which rows are."""
    rows = sum(row_groups)
    labelled = rows if shard.labelled == shard.rows else 0
    return shard.model_copy(update={"row_groups": row_groups, "rows": rows, "labelled": labelled})
