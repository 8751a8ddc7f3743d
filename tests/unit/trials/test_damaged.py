"""Damaged records are set aside and damaged checkpoints gone on from, where that loses nothing."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from usseg_ray.core.records import DamagedError
from usseg_ray.engine.checkpoint import STATE_FILE, RunState
from usseg_ray.trials.damaged import set_records_aside, to_go_on
from usseg_ray.trials.storage import Storage
from usseg_ray.trials.trial import CHECKPOINTS, TRIAL_FILE, Trial, load_trials


def left(run: Path, index: int) -> Trial:
    """Leaves a finished trial with its last checkpoint."""
    folder = run / f"trial_{index:03d}" / CHECKPOINTS / "epoch_0002"
    RunState(2, {}, {"w": torch.ones(3)}).save(folder)
    trial = Trial(index, "kmeans", {"a": index}, {}, 2, "FINISHED", checkpoint=str(folder))
    trial.save(run)
    return trial


def test_damaged_records_are_set_aside_but_for_those_that_know_what_was_drawn(
    tmp_path: Path,
) -> None:
    for index in range(3):
        left(tmp_path, index)
    (tmp_path / "trial_001" / TRIAL_FILE).write_text("null")
    said = Console(file=io.StringIO(), width=400)
    planned: dict[str, tuple[str, object]] = {
        f"trial_{index:03d}": ("kmeans", {}) for index in range(2)
    }
    set_records_aside(tmp_path, planned, said)
    assert [trial.index for trial in load_trials(tmp_path)] == [0, 2]
    assert isinstance(said.file, io.StringIO)
    assert "trial_001 goes on from its checkpoint." in said.file.getvalue()

    (tmp_path / "trial_002" / TRIAL_FILE).write_text("null")
    with pytest.raises(DamagedError, match=r"trial_002/trial\.json is damaged"):
        set_records_aside(tmp_path, {**planned, "trial_002": ("kmeans", None)}, said)


@pytest.mark.parametrize("kept_at", ["", "bucket"])
def test_finished_trials_whose_checkpoint_is_damaged_or_gone_go_on(
    tmp_path: Path, kept_at: str
) -> None:
    run = tmp_path / "run"
    trials = [left(run, index) for index in range(4)]
    trials[3].status = "FAILED"
    for index, content in ((1, b"junk"), (2, b""), (3, b"junk")):
        file = run / f"trial_{index:03d}" / CHECKPOINTS / "epoch_0002" / STATE_FILE
        file.write_bytes(content)
        if not content:
            file.unlink()
    storage = Storage(run, (tmp_path / kept_at).as_uri() if kept_at else "")
    storage.push("trial_000", "trial_001")
    found = to_go_on(trials, storage, Console(file=io.StringIO()))
    assert found == trials[1:3]
    written = [trial.status for trial in load_trials(run)]
    assert written == ["FINISHED", "RUNNING", "RUNNING", "FINISHED"]
