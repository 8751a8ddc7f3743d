"""Trains finalists while trials still run: those that stay it however these end.

What would stand idle as the last trials end has work, and the processes that trained trials go on
with finalists. Whatever is not certain by then waits until the trials have ended.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from usseg_ray.sweeps.finals.chosen import again, certain
from usseg_ray.sweeps.finals.scores import scorings
from usseg_ray.sweeps.plan import Draws, Plan
from usseg_ray.sweeps.tuning import Beside
from usseg_ray.trials.job import FinalScoring, Job
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import Trial


class EarlyFinalists:
    """The finalists of a sweep that were known before it had ended.

    Args:
        plan: The sweep's plan, on its cluster.
        storage: The sweep's folder.

    Attributes:
        chosen: The finalists so far.
        draws: Their runs.
        finals: Name of a run -> what its process scores on the test split when it has ended.
    """

    def __init__(self, plan: Plan, storage: Storage) -> None:
        self._plan, self._storage = plan, storage
        self.chosen: list[Trial] = []
        self.draws: dict[str, tuple[str, dict[str, object] | None]] = {}
        self.finals: dict[str, list[FinalScoring]] = {}

    def beside(self, trials: Mapping[str, Trial], baselines: Job | None) -> Beside:
        """Says what the processes of the sweep's trials do apart from these.

        A resumed sweep trains finalists after its trials, when it is known which files of either
        are damaged; one with a time budget, which is for trials, as well.

        Args:
            trials: The sweep's trials, which grow as it goes.
            baselines: What their computation needs, `None` where nothing is left.
        """
        plan = self._plan
        if trials or not plan.has_test or plan.request.time_budget_s is not None:
            return Beside(baselines)
        return Beside(baselines, self.finals, partial(self.more, trials.values()))

    def more(self, trials: Iterable[Trial]) -> Draws | None:
        """Plans the runs of finalists that have become certain.

        Args:
            trials: The sweep's so far, and runs of finalists.

        Returns:
            What to run; `None` where no more will come.
        """
        request, known = self._plan.request, {one.name for one in self.chosen}
        ended = [trial for trial in trials if trial.seed is None and trial.status != "RUNNING"]
        names = {trial.name for trial in ended}
        left = {name: method for name, (method, _) in self._plan.draws.items() if name not in names}
        found = certain(ended, left, request.finalists)
        new = [trial for trial in found if trial.name not in known]
        draws = again(new, request.seeds)
        self.chosen += new
        self.draws |= draws
        self.finals |= scorings(self._plan, new, request.seeds, self._storage)
        return draws if draws or left else None
