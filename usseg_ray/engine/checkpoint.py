"""What a run leaves to go on from: its state after an epoch, and the epoch labels would choose.

A state knows its own file, and nobody else reads what is in it.
"""

import math
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Self
from zipfile import ZipFile

import torch

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line, write_whole
from usseg_ray.core.records import DamagedError, read_json, write_json

STATE_FILE = "checkpoint.pt"

VERSION = 2
"""Of the file. The first one, of version 0.1.0, did not name its number and is still read; a
registered model's had the method's state alone."""

BEST = "best"

BEST_NOTE = "metrics.json"

_CURE = "Remove its folder: the trial goes on from an earlier checkpoint, or from the start."


def load_whole(path: Path, device: torch.device, cure: str) -> dict[str, Any]:
    """Reads what `torch.save` wrote, tensors and plain values only, if every bit of it is right.

    PyTorch writes checksums, and reads past them.

    Args:
        path: The file.
        device: Where tensors go.
        cure: What to do if it is damaged, in a sentence.

    Raises:
        FileNotFoundError: There is none.
        DamagedError: It is not what was saved.
    """
    check_whole(path, cure)
    try:
        return dict(torch.load(path, map_location=device, weights_only=True))
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, UnpicklingError) as error:
        raise DamagedError(f"{path} is damaged ({first_line(error)[:60]}). {cure}") from None


def save_whole(path: Path, saved: dict[str, Any]) -> None:
    """Writes what `load_whole` reads, as a whole or not at all.

    Raises:
        OSError: The disk is full, for example; PyTorch alone would speak of its own file format.
    """

    def write(stream: BinaryIO) -> None:
        try:
            torch.save(saved, stream)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    write_whole(path, write)


def check_whole(path: Path, cure: str) -> None:
    """Compares what `torch.save` wrote with its checksums.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: It is not what was saved.
    """
    try:
        with ZipFile(path) as file:
            wrong = file.testzip()
        fault = f"the checksum of {wrong} is wrong" if wrong else ""
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 (what a bit can make of an archive is not foreseen)
        fault = first_line(error)[:60] or type(error).__name__
    if fault:
        raise DamagedError(f"{path} is damaged ({fault}). {cure}")


@dataclass(frozen=True)
class EpochPart:
    """How far an epoch was when it was broken off.

    Attributes:
        taken: Steps taken of it.
        means: Means over them of the loss and its terms.
    """

    taken: int
    means: dict[str, float]


@dataclass(frozen=True, eq=False)
class RunState:
    """All that a run goes on from.

    Attributes:
        epoch: Epochs behind it.
        metrics: What was reported of the last one; empty within an epoch.
        method: The method's `state_dict`.
        optimiser: That of the stage's optimiser; empty where nothing is learnt by steps.
        part: How far the next epoch is; `None` at an epoch's end.
    """

    epoch: int
    metrics: dict[str, float]
    method: dict[str, Any]
    optimiser: dict[str, Any] = field(default_factory=dict)
    part: EpochPart | None = None

    @property
    def name(self) -> str:
        """Name of its checkpoint's folder; names are in the order of training."""
        name = f"epoch_{self.epoch:04d}"
        return f"{name}_step_{self.part.taken:06d}" if self.part else name

    def save(self, folder: Path) -> None:
        """Writes the state as a whole or not at all, even after a SIGKILL.

        Should a process that was given up still live, both write the same.

        Args:
            folder: Made where it is missing; another state in it is replaced.
        """
        part = asdict(self.part) if self.part else None
        saved = {**vars(self), "part": part, "version": VERSION}
        save_whole(folder / STATE_FILE, saved)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Says whether a folder has a state."""
        return (folder / STATE_FILE).exists()

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """Reads a state, tensors and plain values only.

        Args:
            folder: Where it was saved.
            device: Where its tensors go.

        Raises:
            UserError: Another version of usseg_ray wrote it.
            DamagedError: It is not what was saved.
        """
        path = folder / STATE_FILE
        saved = load_whole(path, device, _CURE)
        version = saved.pop("version", 1)
        if version == 1:
            saved = {"epoch": 0, "metrics": {}, **saved}
        elif version != VERSION:
            raise UserError(
                f"{path} is a checkpoint of version {version}, and this usseg_ray reads versions "
                f"1 to {VERSION}. Read it with the usseg_ray that wrote it, or train again."
            )
        part = saved.pop("part", None)
        try:
            return cls(**saved, part=EpochPart(**part) if part else None)
        except TypeError as error:
            raise DamagedError(f"{path} is damaged ({first_line(error)[:60]}). {_CURE}") from None


@dataclass(frozen=True)
class _Best:
    epoch: int
    unsup_miou: float


def keep_best(state: RunState, folder: Path) -> bool:
    """Keeps a state beside those to resume from, if no earlier one scored better.

    What it is picked by are labels of the selection split: whatever is scored with it is marked as
    label-selected.

    Args:
        state: As reported; passed over if its epoch was not scored.
        folder: Of the trial; the state goes to its folder `best`.

    Returns:
        Whether it was kept.
    """
    score, best = state.metrics.get("unsup_miou"), folder / BEST
    if score is None or _best_score(best) >= score:
        return False
    state.save(best)
    write_json(best / BEST_NOTE, asdict(_Best(state.epoch, score)))
    return True


def _best_score(best: Path) -> float:
    """Reads the score of the state kept so far; where its note is damaged, from the state."""
    with suppress(FileNotFoundError, DamagedError):
        try:
            return read_json(best / BEST_NOTE, _Best, "").unsup_miou
        except DamagedError:
            return RunState.load(best, torch.device("cpu")).metrics["unsup_miou"]
    return -math.inf
