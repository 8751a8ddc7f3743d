"""Models and runs of earlier versions, read as the models that they would be today.

They kept a model as `settings.json` beside a checkpoint, and none at all of runs without labels.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor

from usseg_ray.core.records import read_json
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.models.description import Description
from usseg_ray.models.folder import (
    BACKBONE_FILE,
    BACKBONE_WEIGHTS,
    backbone_file,
    describe_run,
    save_model,
)
from usseg_ray.scoring.objective import MIOU

SETTINGS_FILE = "settings.json"

IN_MLFLOWS = "data/model"
"""Where MLflow puts a model's own folder in its own."""

_TRIAL_FILE, _CHECKPOINTS = "trial.json", "train"

_CURE = "Take it from the run, or the store, again."


@dataclass(frozen=True)
class _Trial:
    """What is read of a trial's record; every version wrote at least this."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    method: str
    settings: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    objective: str = MIOU

    @property
    def rank(self) -> float:
        return self.metrics.get(self.objective, float("-inf"))


@dataclass(frozen=True)
class _Settings:
    """What `settings.json` held."""

    method: str
    settings: dict[str, Any]


def is_earlier(folder: Path) -> bool:
    """Says whether a folder is a model as earlier versions kept it."""
    return (folder / SETTINGS_FILE).is_file()


def read_earlier(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """Reads a model as earlier versions kept it.

    Args:
        folder: Its own, within MLflow's.

    Returns:
        Its description, as it would be today, and the method's weights.

    Raises:
        UserError: A file is damaged, of a version to come, or the backbone's weights are out of
            reach.
    """
    kept = read_json(folder / SETTINGS_FILE, _Settings, _CURE)
    weights = folder / BACKBONE_FILE
    placed = {BACKBONE_WEIGHTS: str(weights)} if weights.exists() else {}
    state = RunState.load(folder, torch.device("cpu"))
    return describe_run(kept.method, kept.settings | placed), state.method


def convert_trial(trial: Path, target: Path) -> Path | None:
    """Makes a model of a trial that kept none.

    Args:
        trial: Its folder.
        target: Where the model goes.

    Returns:
        The model's folder; `None` where this is no trial, or one without a state.

    Raises:
        UserError: A file is damaged, or the backbone's weights are out of reach.
    """
    state = _last_state(trial)
    if state is None:
        return None
    known = _trial(trial)
    loaded = RunState.load(state, torch.device("cpu"))
    about = describe_run(known.method, known.settings)
    save_model(target, about, loaded.method, backbone_file(known.settings))
    return target


def best_trial(run: Path) -> Path | None:
    """Finds the trial of a run that ranks first, of those that have a state or a model."""
    trials = [file.parent for file in run.glob(f"trial_*/{_TRIAL_FILE}") if _useful(file.parent)]
    return max(sorted(trials), key=lambda trial: _trial(trial).rank, default=None)


def _useful(trial: Path) -> bool:
    return _last_state(trial) is not None or finalist_model(trial) is not None


def finalist_model(trial: Path) -> Path | None:
    """Finds the model that a labelled run kept of a trial that became a finalist."""
    folder = trial.parent / "finalists" / trial.name / "model" / IN_MLFLOWS
    return folder if is_earlier(folder) else None


def _trial(folder: Path) -> _Trial:
    return read_json(folder / _TRIAL_FILE, _Trial, "Move its folder away.")


def _last_state(trial: Path) -> Path | None:
    if not (trial / _TRIAL_FILE).is_file():
        return None
    found = [folder for folder in trial.glob(f"{_CHECKPOINTS}/epoch_*") if RunState.is_in(folder)]
    return max(found, key=lambda folder: folder.name, default=None)
