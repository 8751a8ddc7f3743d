"""How long it will take to score a trained trial with refiners, judged by a few of its images."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from usseg_ray.core.machine import usable_cpus
from usseg_ray.data.manifest import load_manifest
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.run import PROBE_BATCHES
from usseg_ray.scoring.crf import crf_kind, open_crf
from usseg_ray.scoring.prediction import Refiners
from usseg_ray.scoring.protocols import Refinement
from usseg_ray.trials.forecast import clock_of, excerpt
from usseg_ray.trials.job import Job
from usseg_ray.trials.worker import build_run

IMAGES = 4


@dataclass
class RefiningForecast:
    """Estimates what `rescore.evaluate_trial` takes; a CRF is timed once for maps of one size.

    Attributes:
        device: `cpu` or `cuda`.
        crf_seconds: (K, H, W) -> of an image.
    """

    device: str
    crf_seconds: dict[tuple[int, ...], float] = field(default_factory=dict)

    def seconds(self, job: Job, refinements: tuple[Refinement, ...]) -> float:
        """Scores a few images of the test split as they would be, but for the CRF.

        Args:
            job: What will have been fitted; its test split has labels.
            refinements: What is scored beside the plain prediction, of the clusters and of the
                linear probe.

        Returns:
            Seconds for the whole split.
        """
        whole, data = load_manifest(job.root), job.config.data
        part = excerpt(whole, {data.train_split, data.test_split}, IMAGES)
        device, given = torch.device(self.device), _Given()
        run = build_run(job.reading_itself(), PlainContext(device=device, history=[]), part)
        worked, refining = clock_of(job.config, device), Refiners(refinements, given)
        batch_size = job.config.train.eval_batch_size

        def timed(what: Callable[[], object]) -> float:
            started = worked()
            what()
            return worked() - started

        def score() -> None:
            predictor = run.predictor(refining=refining)
            for one in run.reader.labelled(data.test_split, batch_size):
                predictor.predict(one.images).label_maps((one.labels.shape[1], one.labels.shape[2]))

        run.method.eval()
        score()  # What is loaded at first does not count.
        scoring, fitting, times = timed(score), 0.0, 1
        if rows := part.splits[data.train_split].labelled:
            times = 2
            probe = timed(lambda: run.linear(data.test_split, refining=refining))
            images = min(whole.splits[data.train_split].labelled, PROBE_BATCHES * batch_size)
            fitting = max(probe - scoring, 0.0) * images / rows
        images = whole.splits[data.test_split].labelled
        crfs = sum("crf" in one for one in refinements)
        each = scoring / part.splits[data.test_split].rows + crfs * self._crf_seconds(given)
        return fitting + times * images * each

    def _crf_seconds(self, given: "_Given") -> float:
        """Times the CRF on the first image that it would have got."""
        if given.log_probs is None or given.pixels is None:
            return 0.0
        key = tuple(given.log_probs.shape[1:])
        if key not in self.crf_seconds:
            # The lattice's processes refine an image each.
            count = usable_cpus() if crf_kind(self.device) == "lattice" else 1
            images = (given.log_probs, given.pixels)
            maps, pixels = (one[:1].expand(count, -1, -1, -1) for one in images)
            with open_crf(self.device) as crf:
                crf(maps[..., :8, :8], pixels[..., :8, :8])  # until its processes have started
                started = time.monotonic()
                crf(maps, pixels).sum().item()
                self.crf_seconds[key] = (time.monotonic() - started) / count
        return self.crf_seconds[key]


@dataclass
class _Given:
    """In place of a CRF: keeps what it was given first, and refines nothing."""

    log_probs: Tensor | None = None
    pixels: Tensor | None = None

    def __call__(self, log_probs: Tensor, pixels: Tensor) -> Tensor:
        if self.log_probs is None:
            self.log_probs, self.pixels = log_probs, pixels
        return log_probs.exp()
