"""What surrounds a run: where to compute, where to report, what to resume from.

A plain process is one; those under Ray are in `contexts`.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from usseg_ray.distributed import rank
from usseg_ray.scoring import Evaluation

CHECKPOINT = "checkpoint.pt"
BEST, BEST_NOTE = "best", "metrics.json"


@runtime_checkable
class RunContext(Protocol):
    """What surrounds a run."""

    device: torch.device

    def report(
        self, metrics: dict[str, float], state: dict[str, Any], evaluation: Evaluation | None
    ) -> None:
        """Takes an epoch's metrics and the state to resume from; called on every worker alike."""

    def after_step(self, state: Callable[[], dict[str, Any]]) -> None:
        """May take a state within an epoch; called after every step, on every worker alike."""

    def restore(self) -> dict[str, Any] | None:
        """Returns the last state taken, or `None` on a first start."""


@dataclass
class PlainContext:
    """A run in this very process, which keeps what is reported.

    Attributes:
        device: Where to compute.
        history: Metrics of every report.
        state: The last state; set it to resume.
        evaluation: The last evaluation.
    """

    device: torch.device
    history: list[dict[str, float]]
    state: dict[str, Any] | None = None
    evaluation: Evaluation | None = None

    def report(
        self, metrics: dict[str, float], state: dict[str, Any], evaluation: Evaluation | None
    ) -> None:
        """Keeps the metrics, the state and the evaluation."""
        self.history.append(metrics)
        self.state = state
        self.evaluation = evaluation

    def after_step(self, state: Callable[[], dict[str, Any]]) -> None:
        """Lets the step pass: whoever ends this process takes what it kept."""

    def restore(self) -> dict[str, Any] | None:
        """Returns the kept state."""
        return self.state


def keep_best(state: dict[str, Any], folder: Path) -> bool:
    """Keeps a state beside those to resume from, if no earlier one scored better.

    What it is picked by are labels of the selection split: whatever is scored with it is marked as
    label-selected.

    Args:
        state: As reported; passed over if its epoch was not scored.
        folder: Of the trial; the state goes to its folder `best`.

    Returns:
        Whether it was kept.
    """
    metrics, best = state["metrics"], folder / BEST
    if "unsup_miou" not in metrics:
        return False
    note = best / BEST_NOTE
    if note.exists() and json.loads(note.read_text())["unsup_miou"] >= metrics["unsup_miou"]:
        return False
    best.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        save_state(state, Path(partial))
        (Path(partial) / CHECKPOINT).replace(best / CHECKPOINT)
    note.write_text(json.dumps({"epoch": state["epoch"], "unsup_miou": metrics["unsup_miou"]}))
    return True


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Writes a state as `checkpoint.pt`; rank 0 alone does."""
    if rank() == 0:
        torch.save(state, folder / CHECKPOINT)


def load_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """Reads a state written by `save_state`, tensors and plain values only."""
    loaded: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
    return loaded
