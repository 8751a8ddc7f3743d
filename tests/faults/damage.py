"""Bits that flip, files cut off, disks that fill: what is read is right, or refused."""

import errno
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests import tiny
from tests.faults.matrix import Found, fault
from tests.features import everything, obtain, wanted
from tests.unit.sweeps.test_request import request
from tests.unit.test_run_files import FILES, RunFile
from usseg_ray.core.errors import UserError
from usseg_ray.core.npz import read_arrays
from usseg_ray.core.records import DamagedError
from usseg_ray.data.verified import verify_once
from usseg_ray.engine.checkpoint import RunState
from usseg_ray.sweeps.request import REQUEST_FILE, Request
from usseg_ray.trials.contexts import TuneContext
from usseg_ray.trials.storage import Storage

FLIPS = 20
"""Bits that one try flips, one at a time."""


def flip(path: Path, random: Random) -> bytes:
    """Flips one bit of a file, and returns what it was."""
    before = path.read_bytes()
    bit, damaged = random.randrange(8 * len(before)), bytearray(before)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return before


def told(refuse: Callable[[], object]) -> str:
    """Returns the one line of a refusal."""
    with pytest.raises(UserError) as error:
        refuse()
    line = str(error.value)
    assert "\n" not in line.strip(), f"more than a line: {line}"
    return line


@fault("bits-in-shards", "a bit flips in a prepared shard: named before anything starts")
def bits_in_shards(random: Random, root: Path) -> Found:
    manifest = tiny.write(root / "set")
    check = partial(verify_once, manifest, str(root / "set"), root / "memory")
    check()
    for _ in range(FLIPS):
        shard = root / "set" / random.choice(manifest.shards).path
        before = flip(shard, random)
        assert shard.name in told(check)
        shard.write_bytes(before)
        os.utime(shard)  # what is mended in place has another time
    now = time.monotonic()
    check()
    return Found(recovery_s=time.monotonic() - now)


@fault("bits-in-checkpoints", "a bit flips in the last checkpoint: on from the one before")
def bits_in_checkpoints(random: Random, root: Path) -> Found:
    seconds = list[float]()
    for number in range(FLIPS):
        storage = Storage(root / str(number))
        context = TuneContext(torch.device("cpu"), storage)
        for epoch in (1, 2):
            with patch("ray.tune.report"):
                state = RunState(epoch, {}, {"w": torch.full((50,), float(epoch))})
                context.report({"epoch": float(epoch)}, state, None)
        flip(storage.folder / "train" / "epoch_0002" / "checkpoint.pt", random)
        now = time.monotonic()
        found = context.restore()
        seconds.append(time.monotonic() - now)
        assert found is not None, "neither was believed"
        assert torch.equal(found.method["w"], torch.full((50,), float(found.epoch)))
    return Found(recovery_s=max(seconds))


@fault("bits-in-features", "a bit flips in stored features: computed again")
def bits_in_features(random: Random, root: Path) -> Found:
    tiny.write(root / "set")
    asked, store = wanted(root / "set"), root / "store"
    with_all = obtain(store, asked)
    expected = everything(with_all)
    with_all.close()
    seconds = list[float]()
    for _ in range(FLIPS // 4):
        flip(random.choice(sorted((store / asked.entry.key).glob("**/*.arrow"))), random)
        now = time.monotonic()
        entry = obtain(store, asked)
        seconds.append(time.monotonic() - now)
        assert np.array_equal(everything(entry), expected), "damaged features were believed"
        entry.close()
    return Found(recovery_s=max(seconds))


@fault("bits-in-plans", "a bit flips in `sweep.yaml`: one line, or what it says is the same")
def bits_in_plans(random: Random, root: Path) -> Found:
    asked = request(num_samples=7)
    asked.save(root)
    for _ in range(FLIPS):
        before = flip(root / REQUEST_FILE, random)
        found = None
        with suppress(UserError):
            found = Request.load(root)
        assert found in (None, asked), "a damaged plan was believed"
        (root / REQUEST_FILE).write_bytes(before)
    now = time.monotonic()
    assert Request.load(root) == asked
    return Found(recovery_s=time.monotonic() - now)


@fault("bits-in-arrays", "a bit flips in an array file of a run: never believed")
def bits_in_arrays(random: Random, root: Path) -> Found:
    path = root / "a.npz"
    expected = {"maps": np.arange(24.0).reshape(2, 3, 4), "ids": np.arange(2)}
    np.savez_compressed(path, **expected)  # type: ignore[arg-type]
    for _ in range(FLIPS):
        before = flip(path, random)
        with suppress(DamagedError):
            found = read_arrays(path, {"maps": 3, "ids": 1}, "")
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
        path.write_bytes(before)
    return Found()


def read_again(file: RunFile, root: Path) -> None:
    """Reads a damaged file of a run: computed again, or told in a line."""
    if file.again:
        assert file.read(root) is None, f"{file.name} was believed"
    else:
        assert told(lambda: file.read(root)).startswith(f"{root / file.name} is damaged: ")


@fault("files-cut-off", "any small file of a run ends early: computed again, or one line")
def files_cut_off(random: Random, root: Path) -> Found:
    for file in FILES:
        file.write(1, root)
        path = root / file.name
        before = path.read_bytes()
        # One that lacks its last line break alone says what it said.
        path.write_bytes(before[: random.randrange(len(before.rstrip()))])
        if not (before[:1].isdigit() and path.read_bytes()):
            read_again(file, root)
        path.unlink()
    return Found()


class Filling(io.FileIO):
    """A new file on a disk with room for so many bytes."""

    room = 0

    def write(self, content: object, /) -> int:
        data = memoryview(content)  # type: ignore[arg-type]
        fits = data[: self.room]
        self.room -= len(fits)
        super().write(fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


@fault("full-at-writers", "the disk fills at any byte of any writer: what stood there stays")
def full_at_writers(random: Random, root: Path) -> Found:
    open_path = Path.open
    for file in FILES:
        file.write(1, root)
        path = root / file.name
        before, names = path.read_bytes(), sorted(path.parent.iterdir())

        def opened(at: Path, mode: str = "r", *rest: object, **named: object) -> object:
            if mode != "xb":
                return open_path(at, mode, *rest, **named)  # type: ignore[call-overload]
            filling = Filling(at, "x")
            filling.room = random.randrange(len(before))  # noqa: B023
            return filling

        full = pytest.raises(OSError, match="No space left")
        with patch("pathlib.Path.open", opened), full:
            file.write(2, root)
        assert path.read_bytes() == before, f"{file.name} is not what it was"
        assert sorted(path.parent.iterdir()) == names, f"{file.name}: something is left"
        now = time.monotonic()
        file.write(2, root)
        assert path.read_bytes() != before
    return Found(recovery_s=time.monotonic() - now)
