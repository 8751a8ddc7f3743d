"""An entry of the feature store on disk: Arrow shards of float16 rows, whole or not there at all.

Between `extraction`, which writes it once, and `entry`, which reads it. An entry is a folder:
`manifest.json` (see `recipe`), and a folder of shards for each part. A shard is an Arrow IPC file
with one record batch: ids, and rows as a fixed-size list of float16, so that rows that follow each
other are one piece of the mapped file. Its sha256 is in its name: the move that makes a shard
visible also makes it complete, and what it must hold is known without another file.
"""

import errno
import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from pydantic import ValidationError

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole
from usseg_ray.core.records import DamagedError, first_fault, read_json, write_json
from usseg_ray.features.store.recipe import MASKS, PARTS, EntryManifest, Part

MANIFEST = "manifest.json"
CHECKED = "checked.json"

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


def save_entry_manifest(manifest: EntryManifest, folder: Path) -> None:
    """Writes what an entry says of itself, in one move."""
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1))


def load_entry_manifest(folder: Path) -> EntryManifest | None:
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
        raise UserError(
            f"{path}: {first_fault(error)}. Remove the folder {folder}: what it held is computed "
            "again."
        ) from None


def write_feature_shard(
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
    write_whole(path, memoryview(content))
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


def is_full(error: OSError) -> bool:
    """Tells whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def list_parts(folder: Path) -> tuple[Part, ...]:
    """Lists the parts that an entry may have shards of: all that are computed, and its masks."""
    return (*PARTS, *sorted(path.name for path in folder.glob(f"{MASKS}*")))


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
            write_json(folder / CHECKED, known)
    return damaged


def _checked(folder: Path) -> dict[str, list[int]]:
    try:
        return read_json(folder / CHECKED, dict[str, list[int]], "It is made again.")
    except (OSError, DamagedError):
        return {}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
