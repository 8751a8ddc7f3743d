"""What a process must know to build a run: plain values that travel through Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """One run, described.

    Attributes:
        method: Name of the method.
        settings: The flattened, resolved config.
        root: URI of the prepared set.
        device: `cpu` or `cuda`.
        reading: Name of the placement group that reading tasks use.
    """

    method: str
    settings: dict[str, Any]
    root: str
    device: str
    reading: str


@dataclass(frozen=True)
class JobTemplate:
    """What the trials of a sweep have in common.

    Attributes:
        method: Name of the method.
        base: Flattened config below what a trial samples (defaults, data set, `fixed`).
        assigned: Dotted assignments above it (`--set`).
        num_classes: Classes of the data, 0 without labels.
        root: URI of the prepared set.
        device: `cpu` or `cuda`.
        reading: Name of the placement group that reading tasks use.
    """

    method: str
    base: dict[str, Any]
    assigned: dict[str, Any]
    num_classes: int
    root: str
    device: str = "cpu"
    reading: str = ""

    def job(self, sample: Mapping[str, Any]) -> Job:
        """Fills in what a trial sampled; K follows from the classes where nothing set it."""
        settings = {**self.base, **sample, **self.assigned}
        if settings["num_clusters"] is None and self.num_classes:
            clusters = round(self.num_classes * settings["clusters_per_class"])
            settings["num_clusters"] = max(2, clusters)
        return Job(self.method, settings, self.root, self.device, self.reading)
