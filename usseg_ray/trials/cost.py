"""What a sweep will cost, for `--dry-run`: a few seconds of each method tell, before it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from usseg_ray.core.files import resolve
from usseg_ray.trials.forecast import BUDGET_S, trial_seconds
from usseg_ray.trials.job import Job, Placement


@dataclass(frozen=True)
class Cost:
    """An estimate for a sweep whose trials run one after the other.

    Attributes:
        seconds: Method -> seconds of one of its trials, with a backbone that computes its features
            anew and starting up left out.
        trials: Method -> its trials.
        retrained: Runs of finalists with further seeds.
        device: What it was measured on, `cpu` or `cuda`.
    """

    seconds: dict[str, float]
    trials: dict[str, int]
    retrained: int
    device: str

    @property
    def total(self) -> float:
        """Seconds of all trials and of the finalists, taken as the longest method's."""
        ranked = sum(self.seconds[method] * count for method, count in self.trials.items())
        return ranked + self.retrained * max(self.seconds.values())

    def lines(self, hour_price: float | None) -> list[str]:
        """Says it to the user.

        Args:
            hour_price: Of a trial's GPUs for an hour, if given.
        """
        each = ", ".join(
            f"{method} {self.trials[method]} x {seconds:.0f} s"
            for method, seconds in self.seconds.items()
        )
        finals = f", finalists {self.retrained} runs" if self.retrained else ""
        where = "GPU" if self.device == "cuda" else "CPU"
        lines = [
            f"Time on this machine's {where}, features computed anew, one trial after the other: "
            f"about {_spoken(self.total)} ({each}{finals})."
        ]
        if hour_price is not None and self.device == "cuda":
            lines.append(f"Money: about {self.total / 3600 * hour_price:.2f}.")
        elif hour_price is not None:
            lines.append("Money: unknown, since this machine has no GPU to measure a trial on.")
        return lines


def estimate(jobs: Sequence[Job], trials: Mapping[str, int], retrained: int) -> Cost | None:
    """Measures a few steps of every method's first trial.

    Args:
        jobs: The first of each method, on one set.
        trials: Method -> its trials.
        retrained: Runs of finalists with further seeds.

    Returns:
        The estimate; `None` where the embedded data was not generated yet.
    """
    filesystem, path = resolve(jobs[0].root)
    if not filesystem.get_file_info(f"{path}/manifest.json").is_file:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    placed = [replace(job, placement=Placement(device)) for job in jobs]
    seconds = {job.method: trial_seconds(job, BUDGET_S / len(placed)) for job in placed}
    return Cost(seconds, dict(trials), retrained, device)


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
