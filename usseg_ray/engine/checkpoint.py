"""What a run leaves to go on from: its state after an epoch, and the epoch labels would choose."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from usseg_ray.core.distributed import rank
from usseg_ray.core.records import read_json, write_json

CHECKPOINT = "checkpoint.pt"

BEST = "best"

BEST_NOTE = "metrics.json"


@dataclass(frozen=True)
class _Best:
    epoch: int
    unsup_miou: float


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
    cure = f"Remove {best}: the best of the epochs that follow is kept."
    if note.exists() and read_json(note, _Best, cure).unsup_miou >= metrics["unsup_miou"]:
        return False
    best.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        save_state(state, Path(partial))
        (Path(partial) / CHECKPOINT).replace(best / CHECKPOINT)
    write_json(note, asdict(_Best(state["epoch"], metrics["unsup_miou"])))
    return True


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Writes a state as `checkpoint.pt`; rank 0 alone does."""
    if rank() == 0:
        torch.save(state, folder / CHECKPOINT)


def load_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """Reads a state written by `save_state`, tensors and plain values only."""
    loaded: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
    return loaded
