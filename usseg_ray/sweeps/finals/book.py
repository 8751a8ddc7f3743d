"""Keeps what finalists' runs score on the test split: as files, pictures and MLflow runs."""

from collections.abc import Iterable

from rich.console import Console

from usseg_ray.core.config import flatten
from usseg_ray.pictures.trial_page import try_to_draw
from usseg_ray.scoring.evaluation import ground_truth
from usseg_ray.sweeps.finals.chosen import ended_runs
from usseg_ray.sweeps.finals.scores import final_folder, still_scored
from usseg_ray.sweeps.plan import Plan
from usseg_ray.tracking.ledger import Ledger
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import BaselineTask
from usseg_ray.trials.trial import FINALISTS, SplitScores, Trial, load_trials, place_of, trial_name


def picked_tag(plan: Plan) -> dict[str, str]:
    """Names what picked among a plan's trials, as its runs are tagged."""
    return {"usseg.picked": plan.picked} if plan.picked else {}


class FinalsBook:
    """Keeps what finalists' runs score on the test split: as files, pictures and MLflow runs.

    Args:
        plan: The sweep's plan, on its cluster.
        storage: The sweep's folder.
        ledger: Its book.
        baselines: Its baselines.
        console: Where to say what cannot be drawn.
    """

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        ledger: Ledger,
        baselines: BaselineTask,
        console: Console,
    ) -> None:
        self._plan, self._storage, self._ledger = plan, storage, ledger
        self._baselines, self._console = baselines, console
        self._kept = set[str]()

    def keep(self, chosen: Iterable[Trial]) -> None:
        """Keeps the scores of all runs of finalists that have ended and are scored, each once.

        None while the baselines are not there, which stand beside every score.
        """
        if not self._baselines.are_there:
            return
        trained = load_trials(self._storage.folder / FINALISTS)
        ended = ended_runs(chosen, self._plan.request.seeds, trained)
        runs = {trial_name(trial.index, seed): (trial, seed) for trial, seed, _ in ended}
        scored = still_scored(runs.keys() - self._kept, self._storage)
        for name, (trial, seed) in runs.items():
            if name in scored:
                self._keep(trial, seed, scored[name])
                self._kept.add(name)

    def _keep(self, trial: Trial, seed: int, metrics: dict[str, float]) -> None:
        plan, name = self._plan, trial_name(trial.index, seed)
        split = plan.config.data.test_split
        protocol, floors = plan.protocol(split), self._baselines.wait().get(split, {})
        where = final_folder(self._storage.folder, trial, seed)
        what = f"{name} ({trial.method}), unsup_miou {metrics['unsup_miou']:.1f}"
        SplitScores(name, trial.method, protocol, metrics, dict(floors)).save(where)
        truth, palette = ground_truth(plan.manifest), plan.manifest.palette
        if fault := try_to_draw(where, truth, palette, f"{protocol}: {what}"):
            self._console.print(f"{name} has no pictures: {fault}", markup=False)
        settings = flatten(plan.job(trial.method, trial.sample, seed).config)
        tags = {"usseg.test_protocol": protocol, "usseg.method": trial.method}
        self._ledger.open_final(trial.name, seed, settings, tags | picked_tag(plan))
        scores = {f"test.{key}": value for key, value in metrics.items()}
        self._ledger.log(name, scores, 0, summary=True)
        self._ledger.attach(name, where)
        self._ledger.close_trial(name, "FINISHED")
        self._storage.push(place_of(name))
