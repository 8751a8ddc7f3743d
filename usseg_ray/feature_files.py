"""An entry of the feature store on disk: Arrow shards of float16 rows, and how they are read.

Between `feature_extraction`, which writes it once, and every batch that reads it. An entry is a
folder: `manifest.json` (see `feature_recipe`), and a folder of shards for each part. A shard is an
Arrow IPC file with one record batch: ids, and rows as a fixed-size list of float16, so that rows
that follow each other are one piece of the mapped file. Its sha256 is in its name: the move that
makes a shard visible also makes it complete, and what it must hold is known without another file.
"""

import errno
import hashlib
import json
import math
import mmap
import os
import re
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Integer
from pydantic import ValidationError
from torch import Tensor

from usseg_ray.batch import FeatureMap
from usseg_ray.config import UserError
from usseg_ray.feature_recipe import EntryManifest, Part

MANIFEST = "manifest.json"
CHECKED = "checked.json"
UNFINISHED = ".unfinished"
MAX_OPEN = 512
"""Shards that a reader keeps mapped; each takes a file descriptor."""

_NAME = re.compile(r"(\d{6})-([0-9a-f]{64})\.arrow")


@dataclass(frozen=True)
class Shard:
    """A shard that is in place.

    Attributes:
        part: What it holds.
        index: Which of its part.
        digest: The sha256 that its bytes must have.
        path: Where it lies.
    """

    part: Part
    index: int
    digest: str
    path: Path

    @property
    def name(self) -> str:
        """Part and index, for messages."""
        return f"{self.part}/{self.index:06d}"


def save_manifest(manifest: EntryManifest, folder: Path) -> None:
    """Writes what an entry says of itself, in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())


def load_manifest(folder: Path) -> EntryManifest | None:
    """Reads what an entry says of itself.

    Returns:
        The manifest; `None` where there is no entry.

    Raises:
        UserError: It cannot be used.
    """
    path = folder / MANIFEST
    try:
        return EntryManifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise UserError(
            f"{path}: {where}: {first['msg']}. Remove the entry with "
            f"python -m usseg_ray.features rm {folder.name}"
        ) from None


def write_shard(
    folder: Path, part: Part, index: int, ids: Sequence[str], rows: Float[np.ndarray, "n ..."]
) -> Shard:
    """Writes one shard, seen under its name only when it is complete and on the disk.

    The same rows give the same bytes.

    Args:
        folder: The entry's.
        part: What the rows are.
        index: Which shard.
        ids: Names of the rows' images.
        rows: (n, ...) float16.

    Returns:
        The shard.

    Raises:
        UserError: A value is not finite in float16.
        OSError: The disk is full, for example; nothing is left of the shard.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float16)
    if not _finite(rows):
        raise UserError(
            f"features of {ids[0]!r} and those after it do not fit float16: they cannot be stored. "
            "Let them be computed in every pass."
        )
    content = _serialised(ids, rows)
    digest = hashlib.sha256(content).hexdigest()
    path = folder / part / f"{index:06d}-{digest}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, content)
    return Shard(part, index, digest, path)


def _finite(rows: np.ndarray) -> bool:
    # numpy has no fast test of float16: infinities and NaN have all exponent bits set.
    return not bool((rows.view(np.uint16) & 0x7C00 == 0x7C00).any())


def _serialised(ids: Sequence[str], rows: np.ndarray) -> pa.Buffer:
    values = pa.Array.from_buffers(pa.float16(), rows.size, [None, pa.py_buffer(rows)])
    columns = [
        pa.array(ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(values, rows.size // len(rows)),
    ]
    batch = pa.record_batch(columns, names=["id", "rows"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _put(path: Path, content: bytes | pa.Buffer) -> None:
    unfinished = path.parent / f".{uuid.uuid4().hex}{UNFINISHED}"
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def is_full(error: OSError) -> bool:
    """Tells whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def list_shards(folder: Path, part: Part) -> dict[int, Shard]:
    """Lists the shards of a part that are in place, by index and in order."""
    found = {}
    with suppress(FileNotFoundError):
        for path in sorted((folder / part).iterdir()):
            parsed = parse_name(path.name)
            if parsed:
                found[parsed[0]] = Shard(part, *parsed, path)
    return found


def parse_name(name: str) -> tuple[int, str] | None:
    """Reads a shard's index and sha256 off its file's name; `None` of any other file's."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def missing_shards(
    folder: Path, manifest: EntryManifest, parts: Iterable[Part]
) -> dict[int, tuple[Part, ...]]:
    """Lists what is not there yet: for each shard's index, in order, the parts that lack it."""
    there = {part: list_shards(folder, part) for part in parts}
    lacking = {
        index: tuple(part for part, shards in there.items() if index not in shards)
        for index in range(manifest.num_shards)
    }
    return {index: absent for index, absent in lacking.items() if absent}


def sweep_unfinished(folder: Path) -> None:
    """Removes what a killed writer left; only whoever has the entry's building lock may."""
    for path in folder.glob(f"**/.*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def drop_damaged(
    folder: Path, shards: Iterable[Shard], *, thorough: bool = False, keep: bool = False
) -> list[Shard]:
    """Finds shards whose bytes are not those of their names, and removes them.

    A shard that was found whole before, and has its size and time since, is not read again.

    Args:
        folder: The entry's.
        shards: Which to look at.
        thorough: Whether to read every shard.
        keep: Whether to leave damaged ones where they are.

    Returns:
        The damaged ones.
    """
    known = _checked(folder)
    damaged = []
    for shard in shards:
        stamp = _stamp(shard.path)
        if not thorough and known.get(shard.path.name) == stamp:
            continue
        with shard.path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == shard.digest
        if whole:
            known[shard.path.name] = stamp
        else:
            damaged.append(shard)
            known.pop(shard.path.name, None)
            if not keep:
                shard.path.unlink(missing_ok=True)
    if known != _checked(folder):
        with suppress(OSError):  # a full or read-only disk: they are read again next time
            _put(folder / CHECKED, json.dumps(known).encode())
    return damaged


def _checked(folder: Path) -> dict[str, list[int]]:
    try:
        found: dict[str, list[int]] = json.loads((folder / CHECKED).read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


class Entry:
    """Reads an entry's rows from its mapped files.

    Args:
        folder: The entry's.
        manifest: Its manifest.
        parts: What is read of it; every shard of these is there.
        held: Closed with the entry; keeps it from being removed.
    """

    def __init__(
        self, folder: Path, manifest: EntryManifest, parts: Iterable[Part], held: int | None = None
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards: Mapping[Part, dict[int, Shard]] = {
            part: list_shards(folder, part) for part in parts
        }
        self._open: OrderedDict[Path, tuple[pa.Array, np.ndarray]] = OrderedDict()
        self._held = held

    def __enter__(self) -> "Entry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files, so that the entry may be removed."""
        self._open.clear()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What can be read."""
        return tuple(self._shards)

    def rows(
        self,
        images: Integer[np.ndarray, "n"],
        crops: Integer[np.ndarray, "n"] | int = 0,
        draws: Integer[np.ndarray, "n"] | int = 0,
    ) -> Integer[np.ndarray, "n"]:
        """Numbers the rows of images.

        Args:
            images: (n,) their numbers in the split.
            crops: Which crop of each.
            draws: Which photometric draw of each.

        Returns:
            (n,) row numbers, for `read`.

        Raises:
            IndexError: There is no such crop or draw.
        """
        recipe = self.manifest.recipe
        num_crops, num_draws = recipe.showing.views, recipe.draws
        if not (_within(crops, num_crops) and _within(draws, num_draws)):
            raise IndexError(f"an image has {num_crops} crops and each {num_draws} draws")
        return (images * num_crops + crops) * num_draws + draws

    def read(
        self, part: Part, rows: Integer[np.ndarray, "n"], out: Tensor | None = None
    ) -> Float[Tensor, "n ..."]:
        """Copies rows into a batch; rows that follow each other are copied at once.

        Args:
            part: What to read.
            rows: (n,) row numbers, in any order.
            out: (n, ...) where to, contiguous, on the CPU; float32 is converted on the way.

        Returns:
            `out`, or a new (n, ...) float16 tensor.

        Raises:
            IndexError: A row does not exist.
        """
        rows = np.asarray(rows)
        if not _within(rows, self.manifest.rows):
            raise IndexError(f"entry {self.manifest.key} has {self.manifest.rows} rows")
        shape = (len(rows), *self.manifest.shape(part))
        out = torch.empty(shape, dtype=torch.float16) if out is None else out
        if out.shape != shape or not out.is_contiguous():
            raise ValueError(f"rows are {shape}, not {tuple(out.shape)}")
        target = out.numpy().reshape(len(rows), math.prod(shape[1:]))
        shards, places = np.divmod(rows, self.manifest.rows_per_shard)
        ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shards) != 0)) + 1
        for start, stop in zip([0, *ends], [*ends, len(rows)], strict=True):
            if start < stop:
                first = places[start]
                values = self._mapped(part, int(shards[start]))[1]
                np.copyto(target[start:stop], values[first : first + stop - start])
        return out

    def ids(self, rows: Integer[np.ndarray, "n"]) -> tuple[str, ...]:
        """Names the images of rows."""
        shards, places = np.divmod(np.asarray(rows), self.manifest.rows_per_shard)
        part = self.parts[0]
        return tuple(
            self._mapped(part, shard)[0][place].as_py()
            for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
        )

    def feature_map(self, rows: Integer[np.ndarray, "n"], device: torch.device) -> FeatureMap:
        """Reads all parts of rows as a method is given them, float32 on a device.

        Args:
            rows: (n,) row numbers.
            device: Where to; half as many bytes go there as on from there.
        """

        def part(*names: Part) -> Tensor | None:
            for name in names:
                if name in self._shards:
                    return self.read(name, rows).to(device).float()
            return None

        tokens = part("tokens")
        if tokens is None:
            raise ValueError(f"entry {self.manifest.key} was opened without its tokens")
        return FeatureMap(tokens, part("saliency_cls", "saliency_minhead"), part("local"))

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of the files that are read."""
        return sum(s.path.stat().st_size for part in self._shards.values() for s in part.values())

    def _mapped(self, part: Part, index: int) -> tuple[pa.Array, np.ndarray]:
        path = self._shards[part][index].path
        found = self._open.get(path)
        if found is None:
            found = self._open[path] = _map(path)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(path)
        return found


def _map(path: Path) -> tuple[pa.Array, np.ndarray]:
    """Maps a shard: ids, and rows as an (n, width) float16 view of the file."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    batch = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).get_batch(0)
    rows = batch.column("rows")
    values = rows.values.to_numpy(zero_copy_only=True)
    return batch.column("id"), values.reshape(len(rows), -1)


def _within(numbers: np.ndarray | int, count: int) -> bool:
    return bool(np.all((np.asarray(numbers) >= 0) & (np.asarray(numbers) < count)))
