"""What became of the shards that were planned: counted as they end, checked, and timed."""

import time
from dataclasses import dataclass, field

from usseg_ray.core.cli import OnProgress
from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import ShardInfo
from usseg_ray.prepare.inspection import Problem

QUARANTINE = "quarantine.jsonl"
MIN_MARKS = 10


@dataclass(frozen=True)
class ShardOutcome:
    """What came of a plan; `failure` says why `out` could not be written."""

    number: int
    images: int
    shard: ShardInfo | None
    problems: list[Problem]
    values: set[int]
    turned: int
    failure: str


@dataclass
class Tally:
    """What the tasks reported, in the order in which they ended.

    Attributes:
        total: Images in all.
        max_bad_share: Largest share of bad images and labels that is passed over.
        on_progress: Told images done, what of it was bad, and images in all.
    """

    total: int
    max_bad_share: float
    on_progress: OnProgress | None
    done: int = 0
    turned: int = 0
    values: set[int] = field(default_factory=set)
    shards: dict[int, ShardInfo] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    marks: list[tuple[float, int]] = field(default_factory=list)

    def add(self, outcome: ShardOutcome) -> None:
        """Counts what came of a shard, and tells how far it is."""
        self.done += outcome.images
        self.turned += outcome.turned
        self.values |= outcome.values
        self.problems += outcome.problems
        if outcome.shard is not None:
            self.shards[outcome.number] = outcome.shard
        self.marks.append((time.perf_counter(), self.done))
        if self.on_progress:
            self.on_progress(self.done, len(self.problems), self.total)

    def notes(self) -> list[str]:
        """Says what is to be looked at, a line each."""
        if not self.turned:
            return []
        return [
            f"{self.turned} labelled images are turned by EXIF without a change of size: see that "
            "their labels are drawn on the turned picture."
        ]

    def check(self, out: str) -> None:
        """Refuses a set of which too much is bad.

        Raises:
            UserError: It is; names the first.
        """
        bad = len(self.problems)
        if bad <= self.max_bad_share * self.total:
            return
        worst = self.problems[0]
        raise UserError(
            f"{bad} of {self.total} images or labels are bad, more than --max-bad-share "
            f"{self.max_bad_share:g} allows; nothing was prepared.\n"
            f"The first: {worst.path}: {worst.reason}. More: {out}/{QUARANTINE}"
        )

    def rate(self) -> float | None:
        """Computes images a second in the middle of the work; `None` of too few shards."""
        inner = [m for m in self.marks if 0.2 * self.total <= m[1] <= 0.9 * self.total]
        if len(inner) < MIN_MARKS:
            return None
        (start, first), (end, last) = inner[0], inner[-1]
        return (last - first) / (end - start)
