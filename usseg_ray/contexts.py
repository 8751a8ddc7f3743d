"""What surrounds a run under Ray: a worker group of Ray Train, or a trial's own process in Tune.

Ray refuses the one's `report` inside the other, so there is a context for each. Both leave the
same folder behind: evaluations, the state that scored best, and under `train` the last checkpoint.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from ray.train import Checkpoint

from usseg_ray.distributed import rank
from usseg_ray.record import write_evaluation
from usseg_ray.run_context import keep_best, load_state, save_state
from usseg_ray.scoring import Evaluation
from usseg_ray.trials import CHECKPOINTS


class TrainContext:
    """A run inside a Ray Train worker group.

    Args:
        device: Where to compute.
        folder: The trial's folder, for the arrays of evaluations.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.folder = folder
        self._restored: str | None = None

    def report(
        self, metrics: dict[str, float], state: dict[str, Any], evaluation: Evaluation | None
    ) -> None:
        """Reports to Ray Train; rank 0's checkpoint and evaluation are the run's."""
        if rank() != 0:
            ray.train.report(metrics)
            return
        _keep(state, evaluation, self.folder)
        name = _checkpoint_name(state)
        if name == self._restored:
            # Ray would take the checkpoint for an older one, and delete it.
            name += "_again"
        with tempfile.TemporaryDirectory() as folder:
            save_state(state, Path(folder))
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_dir_name=name,
            )

    def restore(self) -> dict[str, Any] | None:
        """Reads the last committed checkpoint, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        self._restored = Path(checkpoint.path).name
        with checkpoint.as_directory() as folder:
            return load_state(Path(folder), self.device)


class TuneContext:
    """A run in the process that Tune gives to a trial.

    It writes the checkpoints itself, where Ray Train would: a resumed sweep is a new experiment to
    Tune, which knows no checkpoints of an earlier one.

    Args:
        device: Where to compute.
        folder: The trial's folder.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.folder = folder

    def report(
        self, metrics: dict[str, float], state: dict[str, Any], evaluation: Evaluation | None
    ) -> None:
        """Commits the state, reports to Tune, then drops the state before."""
        _keep(state, evaluation, self.folder)
        target = self.folder / CHECKPOINTS / _checkpoint_name(state)
        if not target.exists():
            _commit(state, target)
        try:
            # It returns when the sweep has taken note of the checkpoint, and raises SystemExit
            # where the scheduler stops the trial.
            ray.tune.report(metrics | {"checkpoint_path": str(target)})
        finally:
            for other in target.parent.iterdir():
                if other != target:
                    shutil.rmtree(other)

    def restore(self) -> dict[str, Any] | None:
        """Reads the last committed checkpoint, if there is one."""
        committed = sorted((self.folder / CHECKPOINTS).glob("epoch_*"))
        return load_state(committed[-1], self.device) if committed else None


def _keep(state: dict[str, Any], evaluation: Evaluation | None, folder: Path) -> None:
    if evaluation is not None:
        write_evaluation(evaluation, folder)
        keep_best(state, folder)


def _checkpoint_name(state: dict[str, Any]) -> str:
    return f"epoch_{state['epoch']:04d}"


def _commit(state: dict[str, Any], target: Path) -> None:
    """Writes a checkpoint that is there as a whole or not at all, even after a SIGKILL."""
    partial = target.with_name(f".{target.name}")
    partial.mkdir(parents=True, exist_ok=True)
    save_state(state, partial)
    partial.rename(target)
