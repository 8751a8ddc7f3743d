"""One epoch of training: the steps, and the means of what they report.

It can be broken off after any step and taken up again by another process.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch

from usseg_ray.core.distributed import world_size
from usseg_ray.core.stopwatch import Seconds, timed, timed_items
from usseg_ray.core.types import Images, Step
from usseg_ray.engine.checkpoint import EpochPart
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.methods.base import Method, Passes
from usseg_ray.ops.products import rounding

SPEED = ("train_seconds", "input_seconds", "images_per_second")
"""Metrics of an epoch that say how long it took, and nothing of what it learnt."""


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; says at which step, on which images, and which term."""


@dataclass
class Epoch:
    """An epoch of a stage, from its beginning or from where it was broken off.

    Attributes:
        method: What learns.
        featurise: Images to batches.
        optimiser: That of the stage.
        passes: Walks over this worker's training images.
        stage: Name of the stage.
        total: Steps of the stage.
        taken: Steps taken of this epoch.
        means: Means over them of the loss and its terms, float64, where these were computed: a GPU
            is not waited for.
    """

    method: Method
    featurise: Featuriser
    optimiser: Optimiser
    passes: Passes
    stage: str
    total: int
    taken: int = 0
    means: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def part(self) -> EpochPart:
        """What to take this epoch up with, beside the method's and optimiser's states."""
        return EpochPart(self.taken, self._told())

    def take_up(self, part: EpochPart) -> None:
        """Goes on from where it was broken off."""
        self.taken = part.taken
        self.means = {
            name: torch.tensor(mean, dtype=torch.float64) for name, mean in part.means.items()
        }

    def train(self, batches: Iterator[Images], after_step: Callable[[], None]) -> dict[str, float]:
        """Takes the steps that are left.

        Args:
            batches: All of the epoch; those of the steps taken are passed over.
            after_step: Called after every step.

        Returns:
            The means, and of this process's part of the epoch `train_seconds`, `input_seconds`
            and `images_per_second`, of all workers together.

        Raises:
            NonFiniteLossError: A loss is not a number.
        """
        started, images = time.monotonic(), 0
        seconds: Seconds = {"input_seconds": 0.0}
        left = self.featurise.ahead(islice(batches, self.taken, None))
        for chunk in timed_items(seconds, "input_seconds", left):
            self._step(chunk, seconds)
            images += len(chunk.ids)
            after_step()
        lasted = max(time.monotonic() - started, 1e-9)
        seconds["train_seconds"] = lasted
        return {**self._told(), **seconds, "images_per_second": world_size() * images / lasted}

    def _step(self, chunk: Images, seconds: Seconds) -> None:
        step = Step(self.optimiser.step_count, self.total, self.taken)
        self.method.before_step(self.stage, step, self.passes)
        with timed(seconds, "input_seconds"):
            batch = self.featurise.training(chunk, self.stage, step)
        with rounding(allowed=self.featurise.autocast):
            result = self.method.loss(batch, self.stage)
            if not torch.isfinite(result.loss):
                terms = {name: float(value) for name, value in result.scalars.items()}
                raise NonFiniteLossError(
                    f"loss is {float(result.loss.detach())} at step {step.index} of stage "
                    f"{self.stage!r}, images {list(batch.ids)[:8]}, terms {terms}"
                )
            result.loss.backward()
        self.optimiser.step()
        self.method.after_step()
        self.taken += 1
        for name, value in {"loss": result.loss.detach(), **result.scalars}.items():
            if name not in self.means:
                self.means[name] = torch.zeros((), dtype=torch.float64, device=value.device)
            before = self.means[name].to(value.device)
            self.means[name] = before + (value - before) / self.taken

    def _told(self) -> dict[str, float]:
        return {name: float(mean) for name, mean in self.means.items()}
