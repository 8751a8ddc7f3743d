"""Bits that flip, files cut off, disks that fill: what is read is right, or refused."""

import errno
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
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


def flips(random: Random, pick: Callable[[], Path], read: Callable[[Path], object]) -> Found:
    """Flips bits in files that are picked, one at a time, and reads each; the longest counts."""
    seconds = list[float]()
    for _ in range(FLIPS):
        path = pick()
        before = flip(path, random)
        now = time.monotonic()
        read(path)
        seconds.append(time.monotonic() - now)
        path.write_bytes(before)
    return Found(recovery_s=max(seconds))


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

    def check() -> None:
        verify_once(manifest, str(root / "set"), root / "memory")

    def read(shard: Path) -> None:
        assert shard.name in told(check)

    check()
    shards = [root / "set" / shard.path for shard in manifest.shards]
    found = flips(random, lambda: random.choice(shards), read)
    check()
    return found


@fault("bits-in-checkpoints", "a bit flips in the last checkpoint: on from the one before")
def bits_in_checkpoints(random: Random, root: Path) -> Found:
    context = TuneContext(torch.device("cpu"), Storage(root))

    def last() -> Path:
        with patch("ray.tune.report"):
            for epoch in (1, 2):
                state = RunState(epoch, {}, {"w": torch.full((50,), float(epoch))})
                context.report({"epoch": float(epoch)}, state, None)
        return root / "train" / "epoch_0002" / "checkpoint.pt"

    def read(path: Path) -> None:
        found = context.restore()
        assert found is not None, "neither was believed"
        assert torch.equal(found.method["w"], torch.full((50,), float(found.epoch)))
        path.parent.mkdir(exist_ok=True)  # it may have been set aside

    return flips(random, last, read)


@fault("bits-in-features", "a bit flips in stored features: computed again")
def bits_in_features(random: Random, root: Path) -> Found:
    tiny.write(root / "set")
    asked, store = wanted(root / "set"), root / "store"

    def stored() -> np.ndarray:
        entry = obtain(store, asked)
        found = everything(entry)
        entry.close()
        return found

    def read(_: Path) -> None:
        assert np.array_equal(stored(), expected), "damaged features were believed"

    expected = stored()
    return flips(random, lambda: random.choice(sorted(store.glob("**/*.arrow"))), read)


@fault("bits-in-plans", "a bit flips in `sweep.yaml`: one line, or what it says is the same")
def bits_in_plans(random: Random, root: Path) -> Found:
    asked = request(num_samples=7)
    asked.save(root)

    def read(_: Path) -> None:
        with suppress(UserError):
            assert Request.load(root) == asked, "a damaged plan was believed"

    return flips(random, lambda: root / REQUEST_FILE, read)


@fault("bits-in-arrays", "a bit flips in an array file of a run: never believed")
def bits_in_arrays(random: Random, root: Path) -> Found:
    expected = {"maps": np.arange(24.0).reshape(2, 3, 4), "ids": np.arange(2)}
    np.savez_compressed(root / "a.npz", **expected)  # type: ignore[arg-type]

    def read(path: Path) -> None:
        with suppress(DamagedError):
            found = read_arrays(path, {"maps": 3, "ids": 1}, "")
            assert all(np.array_equal(found[name], expected[name]) for name in expected)

    return flips(random, lambda: root / "a.npz", read)


def read_again(file: RunFile, root: Path) -> None:
    """Reads a damaged file of a run: computed again, or told in a line."""
    if file.again:
        assert file.read(root) is None, f"{file.name} was believed"
    else:
        assert told(lambda: file.read(root)).startswith(f"{root / file.name} is damaged: ")


@fault("bits-in-records", "a bit flips in any small file of a run: computed again, or one line")
def bits_in_records(random: Random, root: Path) -> Found:
    files = {root / file.name: file for file in FILES if file.name != REQUEST_FILE}
    for file in files.values():
        file.write(1, root)
    expected = {path: file.read(root) for path, file in files.items()}

    def read(path: Path) -> None:
        with suppress(UserError):
            found = files[path].read(root)
            assert found in (None, expected[path]), f"a damaged {path.name} was believed"

    return flips(random, lambda: random.choice(list(files)), read)


@fault("files-cut-off", "any small file of a run ends early: computed again, or one line")
def files_cut_off(random: Random, root: Path) -> Found:
    for file in FILES:
        file.write(1, root)
        path = root / file.name
        before = path.read_bytes()
        path.write_bytes(before[: random.randrange(len(before.rstrip()))])
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
