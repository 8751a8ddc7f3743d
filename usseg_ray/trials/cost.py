"""What a sweep will cost, for `--dry-run`: a few seconds of each method tell, before it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from usseg_ray.core.machine import usable_cpus
from usseg_ray.features.store.store import FeatureStore
from usseg_ray.trials.forecast import BUDGET_S, trial_time
from usseg_ray.trials.job import Job


@dataclass(frozen=True)
class Cost:
    """An estimate for a sweep.

    Attributes:
        seconds: Method -> seconds of one of its trials, starting up left out.
        trials: Method -> its trials that train.
        retrained: Runs of finalists with further seeds.
        device: What it was measured on, `cpu` or `cuda`.
        untrained: Method -> its trials that take over another's training, and seconds of each.
        features: Seconds of features that are computed once; `None` where trials compute theirs.
        at_once: Trials for which this machine has room at a time.
        disk: Bytes of features that are not stored yet.
    """

    seconds: dict[str, float]
    trials: dict[str, int]
    retrained: int
    device: str
    untrained: dict[str, tuple[int, float]] = field(default_factory=dict)
    features: float | None = None
    at_once: int = 1
    disk: int = 0

    @property
    def total(self) -> float:
        """Seconds of features, all trials and the finalists, taken as the longest method's."""
        ranked = sum(self.seconds[method] * count for method, count in self.trials.items())
        ranked += sum(count * seconds for count, seconds in self.untrained.values())
        return (self.features or 0) + ranked + self.retrained * max(self.seconds.values())

    def lines(self, hour_price: float | None) -> list[str]:
        """Says it to the user.

        Args:
            hour_price: Of a trial's GPUs for an hour, if given.
        """
        each = ", ".join(
            f"{method} {self.trials[method]} x {seconds:.0f} s"
            for method, seconds in self.seconds.items()
        )
        for method, (count, seconds) in self.untrained.items():
            each += f", {method} {count} x {seconds:.0f} s that train nothing"
        finals = f", finalists {self.retrained} runs" if self.retrained else ""
        where = "GPU" if self.device == "cuda" else "CPU"
        kept = "anew in each trial" if self.features is None else f"once {spoken(self.features)}"
        together = f", {self.at_once} at a time {spoken(self.total / self.at_once)}"
        lines = [
            f"Time on this machine's {where}: one trial after the other about "
            f"{spoken(self.total)}{together if self.at_once > 1 else ''} "
            f"({each}{finals}; features {kept})."
        ]
        if hour_price is not None and self.device == "cuda":
            lines.append(f"Money: about {self.total / 3600 * hour_price:.2f}.")
        elif hour_price is not None:
            lines.append("Money: unknown, since this machine has no GPU to measure a trial on.")
        return lines


def estimate(
    jobs: Sequence[Job],
    trials: Mapping[str, int],
    retrained: int,
    store: FeatureStore | None = None,
    features: float | None = None,
    trained: Mapping[str, int] | None = None,
) -> Cost:
    """Measures a few steps of every method's first trial.

    Args:
        jobs: The first of each method, on one set and on the device that is there.
        trials: Method -> its trials.
        retrained: Runs of finalists with further seeds.
        store: Has the features that the jobs name, of a few images.
        features: Seconds that it takes to compute those of all images.
        trained: Method -> its trials that train, the others take over what these learnt; all if
            unset.
    """
    trained = dict(trials if trained is None else trained)
    left = {method: count - trained[method] for method, count in trials.items()}
    times = {
        job.method: trial_time(job, BUDGET_S / len(jobs), store, scored=left[job.method] > 0)
        for job in jobs
    }
    seconds = {method: time.seconds for method, time in times.items()}
    untrained = {method: (n, times[method].scoring) for method, n in left.items() if n}
    device, resources = jobs[0].placement.device, jobs[0].config.resources
    room = usable_cpus() / (resources.cpus_per_worker + resources.data_cpus_per_worker)
    if device == "cuda":
        room = min(room, torch.cuda.device_count() / resources.gpus_per_worker)
    at_once = min(max(1, int(room / resources.processes)), sum(trials.values()))
    return Cost(seconds, trained, retrained, device, untrained, features, at_once)


def spoken(seconds: float) -> str:
    """Writes a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
