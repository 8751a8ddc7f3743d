"""Tensors come out of checkpoints; nothing that they hold is run."""

import builtins
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from usseg_ray.core.errors import UserError
from usseg_ray.models.official.tensors import read_tensors, tensors_of

WEIGHTS = {"net.weight": torch.arange(6.0).view(2, 3), "net.bias": torch.ones(2).half()}


class Calls:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


class AttributeDict(dict[str, Any]):
    """As Lightning keeps hyper-parameters."""


class Node:
    """As OmegaConf keeps a value: by its state."""

    def __init__(self, value: object) -> None:
        self.value, self.parent = value, self


class ModelCheckpoint:
    """A callback, whose class is a key of Lightning's file."""


def lightning() -> dict[str, Any]:
    cfg = AttributeDict(cfg=Node({"dim": 70}), n_classes=27, place=Path("/somewhere"))
    return {
        "epoch": 3,
        "global_step": 5000,
        "pytorch-lightning_version": "1.5.0",
        "state_dict": OrderedDict(WEIGHTS),
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.ones(9)}}}],
        "hparams_name": "kwargs",
        "hyper_parameters": cfg,
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_lightnings_file_gives_its_tensors(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / "epoch=3.ckpt"
    torch.save(lightning(), path, _use_new_zipfile_serialization=zipped)
    found = tensors_of(path)
    assert found.keys() == {f"state_dict:{name}" for name in WEIGHTS}
    for name, value in WEIGHTS.items():
        assert torch.equal(found[f"state_dict:{name}"], value)


def test_a_bare_state_and_an_array_are_read(tmp_path: Path) -> None:
    torch.save(OrderedDict(WEIGHTS), tmp_path / "segment.pth")
    assert tensors_of(tmp_path / "segment.pth").keys() == WEIGHTS.keys()
    np.save(tmp_path / "modular.npy", np.eye(3, dtype=np.float32))
    assert torch.equal(tensors_of(tmp_path / "modular.npy")["array"], torch.eye(3))


def test_the_reader_compiles_nothing_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes renaming files: after an installation that left modules as they came."""
    torch.save(OrderedDict(WEIGHTS), tmp_path / "segment.pth")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "empty"))
    assert read_tensors(tmp_path / "segment.pth").keys() == WEIGHTS.keys()


def hostile(marker: Path, function: Any, *, zipped: bool = True) -> Path:
    """Writes a checkpoint that would leave a marker, were it unpickled as usual."""
    path = marker.with_suffix(".pth")
    program = f"open({str(marker)!r}, 'w')"
    by_shell = function in (os.system, subprocess.check_output)
    call = Calls(function, f"touch {marker}" if by_shell else program)
    held = {"state_dict": OrderedDict(WEIGHTS), "hyper_parameters": call}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_runs_nothing(tmp_path: Path, *, zipped: bool) -> None:
    inert: tuple[Any, ...] = (builtins.eval, builtins.exec, torch.hub.load)
    for function in inert:
        path = hostile(tmp_path / "ran", function, zipped=zipped)
        assert tensors_of(path).keys() == {f"state_dict:{name}" for name in WEIGHTS}
        assert not (tmp_path / "ran").exists()
    refused: tuple[Any, ...] = (os.system, subprocess.check_output)
    for function in refused:
        # Of the system's own modules not even the names are taken.
        path = hostile(tmp_path / "ran", function, zipped=zipped)
        with pytest.raises(UserError, match=r"it calls (posix|subprocess)\."):
            tensors_of(path)
        assert not (tmp_path / "ran").exists()


def test_nor_does_it_in_the_process_that_reads_it(tmp_path: Path) -> None:
    path = hostile(tmp_path / "ran", builtins.exec)
    assert read_tensors(path).keys() == {f"state_dict:{name}" for name in WEIGHTS}
    assert not (tmp_path / "ran").exists()
    # It is hostile indeed.
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()
    with pytest.raises(UserError, match=r"a checkpoint \(it calls posix\.system, as no"):
        read_tensors(hostile(tmp_path / "ran", os.system))


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "modular.npy"
    np.save(path, np.array([Calls(os.system, f"touch {tmp_path / 'ran'}")], dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        tensors_of(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no archive", pickle.dumps({"no": "tensors"}, protocol=2)]
)
def test_what_is_no_checkpoint_is_said_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        tensors_of(path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_what_is_missing_or_empty_is_said_in_a_line(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"empty\.pth: cannot be read .*it holds no tensors"):
        read_tensors(tmp_path / "empty.pth")
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "lost.pth")
