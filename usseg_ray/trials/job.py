"""What a process must know to build a run: typed values that travel through Ray."""

from dataclasses import dataclass, field, replace

from usseg_ray.core.config import Config, MethodConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import FixedView


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
class Placement:
    """Where a job runs, and what it finds there.

    Attributes:
        device: `cpu` or `cuda`.
        reading: Name of the placement group that reading tasks use; empty to read in the process
            itself.
        stored: Features that are in the store.
    """

    device: str = "cpu"
    reading: str = ""
    stored: tuple[StoredView, ...] = ()


HERE = Placement()
"""In this process, on the CPU, with nothing stored."""


@dataclass(frozen=True)
class Job:
    """One run, described.

    Attributes:
        method: Name of the method.
        config: Its settings, checked; Ray Tune writes a job into names and logs, without these.
        root: URI of the prepared set.
        placement: Where it runs.
        shared: Which training it has in common with other trials: a key, and in a trial's own
            process the place where that is left; empty where it has none.
    """

    method: str
    config: Config[MethodConfig] = field(repr=False)
    root: str
    placement: Placement = HERE
    shared: str = ""

    @property
    def num_clusters(self) -> int:
        """K, which is known where the data has classes or a setting says it.

        Raises:
            UserError: Neither is so.
        """
        if self.config.num_clusters is None:
            raise UserError("num_clusters is not set, and the data names no classes to follow.")
        return self.config.num_clusters

    def with_training(self, **changed: int) -> "Job":
        """Returns the same job with fields of `train` changed to values that need no check.

        Its training is then its own.
        """
        train = self.config.train.model_copy(update=changed)
        return replace(self, config=self.config.model_copy(update={"train": train}), shared="")

    def reading_itself(self) -> "Job":
        """Returns the same job for a process that reads its rows itself."""
        return replace(self, placement=replace(self.placement, reading=""))


@dataclass(frozen=True)
class FinalScoring:
    """A trial that is to be scored on the test split.

    Attributes:
        job: What was fitted.
        trial: Where it lies in its sweep's folder.
        target: Where its scores and the evaluation's arrays go, in the same.
        checkpoint: Name of its last checkpoint; the last one there is if empty.
    """

    job: Job
    trial: str
    target: str
    checkpoint: str = ""
