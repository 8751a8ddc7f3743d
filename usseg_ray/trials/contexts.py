"""What surrounds a run under Ray: a worker group of Ray Train, or a trial's own process in Tune.

Ray refuses the one's `report` inside the other, so there is a context for each. Both leave the
same folder behind: evaluations, the state that scored best, and under `train` the last checkpoint.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import ray.train
import ray.tune
import torch
from ray.train import Checkpoint

from usseg_ray.core.distributed import rank
from usseg_ray.core.records import DamagedError
from usseg_ray.engine.checkpoint import BEST, BEST_NOTE, RunState, keep_best
from usseg_ray.engine.context import RunContext
from usseg_ray.scoring.arrays import ARRAYS, write_evaluation
from usseg_ray.scoring.evaluation import Evaluation
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trained import load_trained, save_trained
from usseg_ray.trials.trial import CHECKPOINTS

SAVING = ".saving-"
"""How the names of folders begin that Ray Train takes checkpoints from."""

LOOK_EVERY = 16
"""Steps between two looks for a notice, at which the workers wait for each other."""


class TrialContext(RunContext):
    """A run of a trial, which trials that train alike may share.

    Args:
        device: Where to compute.
        storage: The trial's folder.
        shared: Where trials that train alike leave what they trained; empty where none do.
    """

    def __init__(self, device: torch.device, storage: Storage, shared: str = "") -> None:
        self.device, self.shared = device, shared
        self.storage = storage

    def trained(self) -> RunState | None:
        """Reads what a trial that trained alike left, if one did."""
        return load_trained(self.shared, self.device) if self.shared else None

    def leave(self, state: RunState) -> None:
        """Leaves what was trained to trials that would train alike."""
        if self.shared and rank() == 0:
            save_trained(self.shared, state)


class TrainContext(TrialContext):
    """A run inside a Ray Train worker group."""

    def __init__(self, device: torch.device, storage: Storage, shared: str = "") -> None:
        super().__init__(device, storage, shared)
        self._earlier: Collection[str] = ()
        self._notice: object = None
        self._steps = 0

    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        """Reports to Ray Train; rank 0's checkpoint and evaluation are the run's."""
        if rank() != 0:
            ray.train.report(metrics)
            return
        _keep(state, evaluation, self.storage)
        self._commit(metrics, state)

    def after_step(self, state: Callable[[], RunState]) -> None:
        """Commits the state once for every notice that a node of this group will go.

        Ray Train starts the group again elsewhere when the notice has run out.
        """
        self._steps += 1
        if self._steps % LOOK_EVERY:
            return
        notice = _preemption_notice()
        if notice is None or notice == self._notice:
            return
        self._notice = notice
        if rank() == 0:
            self._commit({}, state())
        else:
            ray.train.report({})

    def _commit(self, metrics: dict[str, float], state: RunState) -> None:
        name = state.name
        while name in self._earlier:
            # Ray would take the checkpoint for an older one, and delete it.
            name += "_again"
        self.storage.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=SAVING, dir=self.storage.folder) as folder:
            state.save(Path(folder))
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_dir_name=name,
            )

    def restore(self) -> RunState | None:
        """Reads the last committed checkpoint that is whole, if there is one."""
        self._earlier = self.storage.folders(CHECKPOINTS)
        if rank() == 0:  # a killed rank leaves what it was saving
            for left in self.storage.folder.glob(f"{SAVING}*"):
                shutil.rmtree(left, ignore_errors=True)
        self.storage.fetch(f"{BEST}/{BEST_NOTE}")
        committed = ray.train.get_checkpoint()
        last = "" if committed is None else Path(committed.path).name
        return next(
            (state for _, state in _states(self.storage, self.device, last) if state is not None),
            None,
        )


def _preemption_notice() -> object:
    """Asks Ray Train; where the version has no such function, which is alpha, none comes."""
    asked = getattr(ray.train, "get_preemption_info", None)
    return None if asked is None else asked()


class TuneContext(TrialContext):
    """A run in the process that Tune gives to a trial.

    It writes the checkpoints itself, where Ray Train would: a resumed sweep is a new experiment to
    Tune, which knows no checkpoints of an earlier one; and Tune gives trials no notice.
    """

    def report(
        self, metrics: dict[str, float], state: RunState, evaluation: Evaluation | None
    ) -> None:
        """Commits the state, reports to Tune, then drops all but the state before."""
        _keep(state, evaluation, self.storage)
        name = state.name
        target = self.storage.folder / CHECKPOINTS / name
        if not RunState.is_in(target):
            state.save(target)
            self.storage.push(f"{CHECKPOINTS}/{name}")
        try:
            # It returns when the sweep has taken note of the checkpoint, and raises SystemExit
            # where the scheduler stops the trial.
            ray.tune.report(metrics | {"checkpoint_path": str(target)})
        finally:
            kept = [one for one in self.storage.folders(CHECKPOINTS) if one < name][-1:]
            self.storage.keep_only(CHECKPOINTS, [*kept, name])

    def restore(self) -> RunState | None:
        """Reads the last committed checkpoint that is whole; damaged ones are set aside."""
        self.storage.fetch(f"{BEST}/{BEST_NOTE}")
        for folder, state in _states(self.storage, self.device):
            if state is not None:
                return state
            aside = folder.with_name(f".damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
        return None


def _states(
    storage: Storage, device: torch.device, last: str = ""
) -> Iterator[tuple[Path, RunState | None]]:
    """Yields the folders of a trial's checkpoints and what they hold, the last one first.

    Args:
        storage: The trial's folder.
        device: Where tensors go.
        last: Name of the last one that counts; any if empty.

    Yields:
        The folder, and its state; `None` where that is damaged.
    """
    for name in reversed(storage.folders(CHECKPOINTS)):
        if last and name > last:
            continue
        storage.fetch(f"{CHECKPOINTS}/{name}")
        folder = storage.folder / CHECKPOINTS / name
        # A kill leaves a folder without a state, and an object store shows it before its file.
        if not RunState.is_in(folder):
            continue
        try:
            yield folder, RunState.load(folder, device)
        except DamagedError:
            yield folder, None


def _keep(state: RunState, evaluation: Evaluation | None, storage: Storage) -> None:
    if evaluation is None:
        return
    write_evaluation(evaluation, storage.folder)
    storage.push(ARRAYS)
    if keep_best(state, storage.folder):
        storage.push(BEST)
