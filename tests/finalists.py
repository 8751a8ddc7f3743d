"""Trials of a sweep from which finalists are chosen, and what stands for the plan of it."""

from collections.abc import Mapping
from types import SimpleNamespace

from tests import tiny
from usseg_ray.sweeps.plan import Draws
from usseg_ray.sweeps.space import Sample
from usseg_ray.trials.job import Job
from usseg_ray.trials.trial import Status, Trial


def trial(
    index: int, method: str, score: float | None, status: Status = "FINISHED", seed: int = 5
) -> Trial:
    metrics = {} if score is None else {"unsup_miou": score}
    sample = {"method.gamma": float(index)}
    return Trial(index, method, sample, {"seed": seed}, 3, status, metrics, "somewhere")


class Planned:
    """Stands for a plan of two finalists with two seeds; its jobs are told apart by their seed."""

    def __init__(
        self, draws: Draws | None = None, *, has_test: bool = True, budget_s: float | None = None
    ) -> None:
        self.draws: Mapping[str, object] = draws or {}
        self.has_test = has_test
        self.request = SimpleNamespace(finalists=2, seeds=2, time_budget_s=budget_s)

    def job(self, method: str, sample: Sample, seed: int) -> Job:  # noqa: ARG002
        return Job(method, tiny.config(seed=seed), "/data")
