"""What a process must know to build a run: plain values that travel through Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from usseg_ray.core.views import FixedView

WORKERS = "resources.num_workers"


@dataclass(frozen=True)
class StoredView:
    """Stored features of a split in one view.

    Attributes:
        split: The split.
        view: How its images are shown.
        key: Of the entry in the feature store.
    """

    split: str
    view: FixedView
    key: str


@dataclass(frozen=True)
class Job:
    """One run, described.

    Attributes:
        method: Name of the method.
        settings: The flattened, resolved config.
        root: URI of the prepared set.
        device: `cpu` or `cuda`.
        reading: Name of the placement group that reading tasks use; empty to read in the process
            itself.
        stored: Features that are in the store.
    """

    method: str
    settings: dict[str, Any]
    root: str
    device: str
    reading: str
    stored: tuple[StoredView, ...] = ()


@dataclass(frozen=True)
class JobTemplate:
    """What the trials of one method have in common.

    Attributes:
        method: Name of the method.
        base: Flattened config below what a trial samples (defaults, data set, preset, `fixed`).
        assigned: Dotted assignments above it (`--set`).
        num_classes: Classes of the data, 0 without labels.
        root: URI of the prepared set.
        device: `cpu` or `cuda`.
        reading: Name of the placement group that reading tasks use.
        stored: Features that are in the store.
    """

    method: str
    base: dict[str, Any]
    assigned: dict[str, Any]
    num_classes: int
    root: str
    device: str = "cpu"
    reading: str = ""
    stored: tuple[StoredView, ...] = ()

    def job(self, sample: Mapping[str, Any]) -> Job:
        """Fills in what a trial sampled; K follows from the classes where nothing set it."""
        settings = {**self.base, **sample, **self.assigned}
        if settings["num_clusters"] is None and self.num_classes:
            clusters = round(self.num_classes * settings["clusters_per_class"])
            settings["num_clusters"] = max(2, clusters)
        return Job(self.method, settings, self.root, self.device, self.reading, self.stored)


@dataclass(frozen=True)
class Draw:
    """What makes one trial of a sweep differ from the others.

    Attributes:
        method: Name of its method.
        sample: Dotted keys and values from the method's search space.
        seed: In place of the sweep's own, for a finalist that is trained again.
    """

    method: str
    sample: dict[str, Any]
    seed: int | None = None


@dataclass(frozen=True)
class Jobs:
    """All jobs of a sweep.

    Attributes:
        templates: Method -> what its trials have in common.
        planned: Name of each trial -> what it draws; empty where a searcher draws as it goes.
    """

    templates: dict[str, JobTemplate]
    planned: Mapping[str, Draw]

    def draw(self, config: Mapping[str, Any]) -> Draw:
        """Says what a trial of Tune draws.

        Args:
            config: `{"trial": name}` for a planned trial, else `method` and what the searcher
                drew for it.
        """
        if self.planned:
            return self.planned[config["trial"]]
        sample = dict(config)
        return Draw(sample.pop("method"), sample)

    def job(self, draw: Draw) -> Job:
        """Fills in what a trial drew."""
        job = self.templates[draw.method].job(draw.sample)
        if draw.seed is None:
            return job
        return replace(job, settings=job.settings | {"seed": draw.seed})

    def with_stored(self, stored: Mapping[str, tuple[StoredView, ...]]) -> "Jobs":
        """Returns the same jobs with stored features.

        Args:
            stored: Method -> what is in the store for it.
        """
        templates = {
            name: replace(template, stored=stored.get(name, ()))
            for name, template in self.templates.items()
        }
        return replace(self, templates=templates)

    def on(self, device: str, reading: str) -> "Jobs":
        """Returns the same jobs on a cluster.

        Args:
            device: `cpu` or `cuda`.
            reading: Name of the placement group that reading tasks use.
        """
        templates = {
            name: replace(template, device=device, reading=reading)
            for name, template in self.templates.items()
        }
        return replace(self, templates=templates)

    def in_processes(self, num_workers: int | str) -> "Jobs":
        """Returns the same jobs with the number of their training processes chosen.

        Args:
            num_workers: As `resources.num_workers`, but not `auto`.
        """
        templates = {
            name: replace(template, assigned=template.assigned | {WORKERS: num_workers})
            for name, template in self.templates.items()
        }
        return replace(self, templates=templates)
