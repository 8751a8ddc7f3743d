"""A sweep before it starts: its methods, and the trials that follow.

A sweep has a part for each of its methods; its trials go round the parts, so that every method's
defaults are among the first. `planning` makes a plan of a request.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from usseg_ray import methods
from usseg_ray.config import (
    Config,
    MethodConfig,
    build_config,
)
from usseg_ray.data.shards import Manifest
from usseg_ray.job import Draw, Job, Jobs, JobTemplate
from usseg_ray.objective import resolve
from usseg_ray.protocols import stamp
from usseg_ray.search_space import SearchSpace
from usseg_ray.sweeps.request import Request
from usseg_ray.trials import Trial, trial_name


@dataclass(frozen=True)
class MethodPlan:
    """One method's part of a sweep.

    Attributes:
        method: Name of the method.
        config: Settings of its first trial (defaults, data set, preset, `fixed`, `--set`).
        space: What is sampled; empty for a single run.
        samples: What each trial draws; empty where Optuna decides as it goes.
        base: Flattened settings below what a trial samples (defaults, data set, preset, `fixed`).
        assigned: Dotted assignments above it (`--set`).
    """

    method: str
    config: Config[MethodConfig]
    space: SearchSpace
    samples: tuple[dict[str, Any], ...]
    base: dict[str, Any]
    assigned: dict[str, Any]

    @property
    def corners(self) -> list[dict[str, Any]]:
        """The first trial, and one more for either end of each range."""
        dimensions = self.space.space.items()
        return [{}, *({key: value} for key, d in dimensions for value in d.ends)]


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
        request: What was asked.
        parts: Its methods, in the order asked.
        root: URI of the data.
        manifest: The data's manifest.
        known: Trials of earlier sweeps that a searcher learns from.
    """

    request: Request
    parts: tuple[MethodPlan, ...]
    root: str
    manifest: Manifest
    known: tuple[Trial, ...] = ()

    @property
    def config(self) -> Config[MethodConfig]:
        """Settings of the first trial; all but what `comparable.is_free` says hold for all."""
        return self.parts[0].config

    @property
    def objective(self) -> str:
        """The metric that trials are ranked by."""
        return resolve(self.request.objective, self.manifest, self.config.data.selection_split)

    @property
    def rounds(self) -> tuple[tuple[str, dict[str, Any] | None], ...]:
        """Method of each trial and what it draws, `None` where Optuna decides; the first: nothing.

        The trials go in rounds over the methods.
        """
        open_ones: list[dict[str, Any] | None] = [{}, *[None] * (self.request.num_samples - 1)]
        rows = (
            [(part.method, sample) for sample in part.samples or open_ones] for part in self.parts
        )
        return tuple(trial for row in zip_longest(*rows) for trial in row if trial is not None)

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What each trial draws; empty where Optuna decides as it goes."""
        known = [Draw(method, sample) for method, sample in self.rounds if sample is not None]
        return tuple(known) if len(known) == self.num_trials else ()

    @property
    def num_trials(self) -> int:
        """How many trials the sweep has."""
        return len(self.rounds)

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial that can be drawn."""
        templates = self.jobs().templates
        return max(
            planned_epochs(templates[part.method].job(sample))
            for part in self.parts
            for sample in part.corners
        )

    def protocol(self, split: str | None = None) -> str:
        """Names what scores are measured under, on the selection split if none is named."""
        selection = self.config.data.selection_split
        return stamp(self.config, self.manifest.name, split or selection)

    def jobs(self) -> Jobs:
        """Gathers the trials' jobs, before a cluster is known."""
        classes = len(self.manifest.classes)
        templates = {
            part.method: JobTemplate(part.method, part.base, part.assigned, classes, self.root)
            for part in self.parts
        }
        return Jobs(templates, {trial_name(i): draw for i, draw in enumerate(self.draws)})


def planned_epochs(job: Job) -> int:
    """Says how many epochs a run takes, over all stages; a method without stages has one."""
    method = methods.get(job.method)
    config = build_config(method.Config, [job.settings])
    return sum(method.stage_epochs(config.method, config.train.epochs)) or 1
