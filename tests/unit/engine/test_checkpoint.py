"""States as files: whole, of a known version, and those of 0.1.0."""

import json
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fitting import equal_states
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError
from usseg_ray.engine.checkpoint import BEST, STATE_FILE, VERSION, EpochPart, RunState, keep_best

CPU = torch.device("cpu")
PART = EpochPart(3, {"loss": 0.5})


def state(epoch: int, score: float | None = None) -> RunState:
    metrics = {"epoch": float(epoch)} | ({} if score is None else {"unsup_miou": score})
    return RunState(epoch, metrics, {"weight": torch.tensor(epoch)}, {"steps": 4 * epoch})


def write(folder: Path, saved: Any) -> None:
    torch.save(saved, folder / STATE_FILE)


@pytest.mark.parametrize("part", [None, PART])
def test_a_state_is_loaded_as_it_was_saved(tmp_path: Path, part: EpochPart | None) -> None:
    saved, folder = replace(state(2, 30.0), part=part), tmp_path / "there"
    assert not RunState.is_in(folder)
    saved.save(folder)
    assert RunState.is_in(folder)
    assert [path.name for path in folder.iterdir()] == [STATE_FILE]
    loaded = RunState.load(folder, CPU)
    assert equal_states(loaded, saved)
    assert loaded.part == part
    assert not equal_states(loaded, state(3, 30.0))


def test_names_are_in_the_order_of_training() -> None:
    names = [state(9).name, replace(state(9), part=PART).name, state(10).name]
    assert names == ["epoch_0009", "epoch_0009_step_000003", "epoch_0010"]
    assert names == sorted(names)


def test_a_write_that_fails_leaves_the_state_before(tmp_path: Path) -> None:
    state(1).save(tmp_path)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        replace(state(2), method={"weight": lambda: None}).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    assert RunState.load(tmp_path, CPU).epoch == 1


def test_states_of_0_1_0_are_read(tmp_path: Path) -> None:
    old = {
        "epoch": 2,
        "part": {},
        "metrics": {"epoch": 2.0},
        "method": {"weight": torch.tensor(2)},
        "optimiser": {"steps": 8},
    }
    write(tmp_path, old)
    assert equal_states(RunState.load(tmp_path, CPU), state(2))
    write(tmp_path, old | {"part": {"taken": 3, "means": {"loss": 0.5}}})
    assert RunState.load(tmp_path, CPU).part == PART


def test_a_model_of_0_1_0_has_the_method_alone(tmp_path: Path) -> None:
    write(tmp_path, {"method": {"weight": torch.tensor(2)}})
    assert RunState.load(tmp_path, CPU).method == {"weight": torch.tensor(2)}


def test_another_version_is_refused_in_a_line(tmp_path: Path) -> None:
    state(1).save(tmp_path)
    newer = torch.load(tmp_path / STATE_FILE) | {"version": VERSION + 1, "more": 1}
    write(tmp_path, newer)
    with pytest.raises(UserError, match=rf"{STATE_FILE} is a checkpoint of version 3, .* again\.$"):
        RunState.load(tmp_path, CPU)


def test_nothing_but_tensors_and_plain_values_is_loaded(tmp_path: Path) -> None:
    write(tmp_path, {"method": {"weight": Path("there")}})
    with pytest.raises(DamagedError, match=r"checkpoint\.pt is damaged"):
        RunState.load(tmp_path, CPU)


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    state(2).save(tmp_path)
    file, draws = tmp_path / STATE_FILE, random.Random(0)
    content, refused = file.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
        file.write_bytes(damaged)
        try:
            assert equal_states(RunState.load(tmp_path, CPU), state(2))  # it was padding
        except DamagedError:
            refused += 1
    assert refused > 50


def test_a_state_of_other_fields_is_refused_in_a_line(tmp_path: Path) -> None:
    state(1).save(tmp_path)
    write(tmp_path, {"epoch": 1, "version": VERSION})
    with pytest.raises(DamagedError, match="missing 2 required positional arguments"):
        RunState.load(tmp_path, CPU)


def test_a_damaged_note_of_the_best_is_read_off_its_state(tmp_path: Path) -> None:
    keep_best(state(1, 50.0), tmp_path)
    note = tmp_path / BEST / "metrics.json"
    note.write_bytes(b"")
    assert not keep_best(state(2, 40.0), tmp_path)
    assert keep_best(state(3, 60.0), tmp_path)
    for file in (note, tmp_path / BEST / STATE_FILE):
        file.write_bytes(b"null")
    assert keep_best(state(4, 10.0), tmp_path)
    assert RunState.load(tmp_path / BEST, CPU).epoch == 4


def test_the_state_that_scored_best_is_kept(tmp_path: Path) -> None:
    for epoch, score, expected in ((1, 30.0, 1), (2, 50.0, 2), (3, 40.0, 2), (4, 50.0, 2)):
        assert keep_best(state(epoch, score), tmp_path) == (expected == epoch)
        assert RunState.load(tmp_path / BEST, CPU).epoch == expected
    assert {path.name for path in tmp_path.iterdir()} == {BEST}
    assert {path.name for path in (tmp_path / BEST).iterdir()} == {STATE_FILE, "metrics.json"}
    kept = json.loads((tmp_path / BEST / "metrics.json").read_text())
    assert (kept["epoch"], kept["unsup_miou"]) == (2, 50.0)


def test_an_epoch_without_a_score_is_passed_over(tmp_path: Path) -> None:
    assert not keep_best(state(1, None), tmp_path)
    assert list(tmp_path.iterdir()) == []
