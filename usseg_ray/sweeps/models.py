"""The models that a run keeps: one for each finalist, or of its best trial, and the chosen one.

Every run has a chosen one, in its folder `model`: with labels or without, of one trial or many.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.models.description import ModelScores
from usseg_ray.models.find import KEPT
from usseg_ray.models.folder import (
    backbone_file,
    describe_run,
    is_split_of,
    read_model,
    save_model,
)
from usseg_ray.models.names import Names
from usseg_ray.scoring.objective import MIOU, PREFIX
from usseg_ray.sweeps.finals.scores import Finalist
from usseg_ray.sweeps.plan import Plan
from usseg_ray.tracking import model as mlflow_model
from usseg_ray.tracking.ledger import Ledger
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.tasks import BaselineTask
from usseg_ray.trials.trial import CHECKPOINTS, FINALISTS, Trial, ranked

_TEST = "test."


@dataclass(frozen=True)
class ModelKeeper:
    """Keeps a sweep's models.

    Attributes:
        plan: Its plan.
        storage: Its folder.
        ledger: Its book.
        baselines: Its baselines.
    """

    plan: Plan
    storage: Storage
    ledger: Ledger
    baselines: BaselineTask

    def keep(self, best: Trial | None, finalists: list[Finalist]) -> None:
        """Keeps the models of the finalists, or of the best trial where there are none.

        Args:
            best: The sweep's best trial.
            finalists: The best first.
        """
        for finalist in finalists:
            run = next(iter(finalist.runs.values()))
            place = f"{FINALISTS}/{finalist.trial.name}"
            if (state := self._state(run)) is not None:
                chosen = finalist is finalists[0]
                self._keep(run, state, place, self._tested(finalist), chosen=chosen)
        if finalists or best is None:
            return
        if (state := self._state(best)) is not None:
            self._keep(best, state, best.name, self._ranked(best, state), chosen=True)

    def _state(self, run: Trial) -> RunState | None:
        """Reads the state that a run reported last, or what is left of one that was ended."""
        place, reported = f"{run.place}/{CHECKPOINTS}", Path(str(run.checkpoint)).name
        self.storage.fetch(place)
        found = [path.name for path in (self.storage.folder / place).glob("*")]
        # One that time ended may have gone on after its last report, and left a later state alone.
        for name in sorted(found, key=lambda name: (name == reported, name), reverse=True):
            with suppress(FileNotFoundError):
                return RunState.load(self.storage.folder / place / name, torch.device("cpu"))
        return None

    def _keep(
        self, run: Trial, state: RunState, place: str, scores: ModelScores, *, chosen: bool
    ) -> None:
        """Keeps a run's model below a place, and the chosen one as the sweep's, registered."""
        name = Path(place).name
        folder = self.storage.folder / place / KEPT
        model = self.storage.folder / KEPT if chosen else folder
        if is_split_of(model, state.method):
            return  # What a person made of it in an earlier life of the run.
        about = describe_run(run.method, run.settings, self.plan.manifest, scores)
        about = about.model_copy(update={"names": _names(model, state.method) or about.names})
        save_model(model, about, state.method, backbone_file(run.settings))
        mlflow_model.save_mlflow_model(model, folder)
        self.storage.push(f"{place}/{KEPT}", *([KEPT] if chosen else []))
        self.ledger.log_model(name, folder, self.plan.request.register_as if chosen else None)

    def _tested(self, finalist: Finalist) -> ModelScores:
        split, own = self.plan.config.data.test_split, finalist.metrics()
        values = {k.removeprefix(_TEST): v for k, v in own.items() if k.startswith(_TEST)}
        floors = self.baselines.wait().get(split, {})
        return ModelScores(
            protocol=self.plan.protocol(split),
            values=values,
            floors=dict(floors),
            seeds=len(finalist.scores),
        )

    def _ranked(self, trial: Trial, state: RunState) -> ModelScores:
        """Says what a trial scored on the selection split; without labels, by which criteria."""
        same = trial.metrics.get("epoch") == state.epoch
        values = {
            name: value
            for name, value in (trial if same else state).metrics.items()
            if name.startswith((PREFIX, "unsup_"))
        }
        split = self.plan.config.data.selection_split
        floors = self.baselines.wait().get(split, {}) if MIOU in values else {}
        return ModelScores(protocol=self.plan.protocol(), values=values, floors=dict(floors))


def _names(folder: Path, state: Mapping[str, Tensor]) -> Names | None:
    """Finds the names that a person gave to the very same clusters, in an earlier life of a run."""
    try:
        about, known = read_model(folder)
    except UserError:
        return None
    same = known.keys() == state.keys()
    return about.names if same and all(torch.equal(known[k], state[k]) for k in known) else None


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Finds the trial that ranks first, of those that left a state and did not fail."""
    able = [t for t in ranked(trials) if t.checkpoint is not None and t.status != "FAILED"]
    return able[0] if able else None
