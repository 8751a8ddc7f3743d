"""A prepared set on disk: Parquet shards of encoded images, and the manifest that names them.

It stands between `prepare.write`, which writes it once, and `reading` and `cluster.ray_stream`,
which read it for every run. Row groups are small, so that a reader can mix and divide rows without
reading whole shards. The manifest is written last and in one move: a set has one when it is
complete, and never before. Shards carry their hash in their name, so that writing a set anew leaves
the old one whole. Everything goes through `pyarrow.fs`: a folder, `file://`, `s3://`, `gs://`,
`hdfs://` are one.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import UNFINISHED, first_line, resolve, write_named
from usseg_ray.data.manifest import AGAIN, MANIFEST, Manifest, ShardInfo, load_manifest

SHARD_FOLDER = "shards"

ROWS_PER_SHARD = 256

ROWS_PER_GROUP = 32

BYTES_PER_GROUP = 64 * 2**20

_READERS = 4

State = tuple[int, int, str]
"""Of a shard's file: its size in bytes, when it was written, and its hash in the manifest."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.binary(), nullable=True),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Row:
    """One image of a shard.

    Attributes:
        id: Unique in its split.
        image: The encoded file.
        label: The encoded label file, or `None`.
        height: Of the upright image, pixels.
        width: Of the upright image, pixels.
    """

    id: str
    image: bytes
    label: bytes | None
    height: int
    width: int


def write_split(
    uri: str | Path, split: str, rows: Iterable[Row], rows_per_shard: int = ROWS_PER_SHARD
) -> list[ShardInfo]:
    """Writes a split's shards one after another in this process.

    Args:
        uri: Root of the set.
        split: Name of the split.
        rows: In the order that they shall have.
        rows_per_shard: Rows of every shard but the last.

    Returns:
        The shards, in order.
    """
    filesystem, root = resolve(uri)
    remaining = iter(rows)
    shards: list[ShardInfo] = []
    while shard := write_shard(
        filesystem, root, split, len(shards), itertools.islice(remaining, rows_per_shard)
    ):
        shards.append(shard)
    return shards


def write_shard(
    filesystem: pafs.FileSystem, root: str, split: str, index: int, rows: Iterable[Row]
) -> ShardInfo | None:
    """Writes one shard, seen under its name only when it is complete.

    Holds one row group in memory at a time. The same rows give the same bytes.

    Args:
        filesystem: Where to.
        root: Root of the set.
        split: Name of the split.
        index: Place of the shard in its split.
        rows: In order.

    Returns:
        What the manifest says of the shard; `None`, and no file, if there are no rows.
    """
    groups = _row_groups(rows)
    first = next(groups, None)
    if first is None:
        return None
    whole = itertools.chain([first], groups)
    return write_named(
        filesystem,
        f"{root}/{SHARD_FOLDER}",
        lambda stream: _write_groups(whole, f"{split}-{index:05d}", split, stream),
    )


def _write_groups(
    groups: Iterable[list[Row]], stem: str, split: str, stream: BinaryIO
) -> tuple[str, ShardInfo]:
    sink = _HashingSink(stream)
    sizes, labelled, cut = [], 0, 0.0
    with _parquet_writer(sink) as writer:
        for group in groups:
            writer.write_table(_table(group), row_group_size=len(group))
            sizes.append(len(group))
            labelled += sum(row.label is not None for row in group)
            sides = [(row.height, row.width) for row in group]
            cut += sum(1 - min(both) / max(both) for both in sides)
    digest = sink.sha256.hexdigest()
    name = f"{stem}-{digest[:12]}.parquet"
    return name, ShardInfo(
        path=f"{SHARD_FOLDER}/{name}",
        split=split,
        rows=sum(sizes),
        labelled=labelled,
        num_bytes=sink.num_bytes,
        sha256=digest,
        row_groups=tuple(sizes),
        cut=round(cut / sum(sizes), 4),
    )


def read_rows(
    filesystem: pafs.FileSystem, path: str, row_group: int, columns: list[str] | None = None
) -> pa.Table:
    """Reads one row group of a shard.

    Args:
        filesystem: Where the set lies, from `resolve`.
        path: The root and the shard's path below it.
        row_group: From 0.
        columns: Which of `SCHEMA`; all if unset.

    Raises:
        UserError: The shard is missing or not readable.
    """
    try:
        with filesystem.open_input_file(path) as file:
            return pq.ParquetFile(file).read_row_group(row_group, columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}). {AGAIN}") from None


def verify(
    manifest: Manifest, uri: str | Path, known: Mapping[str, State] | None = None, cure: str = AGAIN
) -> dict[str, State]:
    """Reads every shard and compares it with its hash in the manifest.

    Args:
        manifest: Of the set.
        uri: Root of the set.
        known: Shards that were right when they had such a state; they are not read again.
        cure: What to do about one that is not right.

    Returns:
        The state of every shard.

    Raises:
        UserError: A shard is missing or has other bytes.
    """
    filesystem, _ = resolve(uri)
    states = check_sizes(manifest, uri, cure)
    unread = [path for path, state in states.items() if (known or {}).get(path) != state]
    with ThreadPoolExecutor(_READERS) as readers:
        found = zip(unread, readers.map(partial(_digest, filesystem), unread), strict=True)
        for path, digest in found:
            wanted = states[path][2]
            if digest != wanted:
                raise _damaged(path, f"sha256 {digest[:12]}...", f"{wanted[:12]}...", cure)
    return states


def check_sizes(manifest: Manifest, uri: str | Path, cure: str = AGAIN) -> dict[str, State]:
    """Asks for the size and time of every shard, and reads none.

    Args:
        manifest: Of the set.
        uri: Root of the set.
        cure: What to do about a shard that is not right.

    Returns:
        Their states, by path.

    Raises:
        UserError: A shard is missing or has another size.
    """
    filesystem, root = resolve(uri)
    shards = {f"{root}/{shard.path}": shard for shard in manifest.shards}
    states: dict[str, State] = {}
    for path, info in zip(shards, filesystem.get_file_info(list(shards)), strict=True):
        if info.type != pafs.FileType.File:
            raise UserError(f"{path}: the shard is missing. {cure}")
        if info.size != shards[path].num_bytes:
            raise _damaged(path, f"{info.size} bytes", f"{shards[path].num_bytes}", cure)
        states[path] = info.size, info.mtime_ns or 0, shards[path].sha256
    return states


def _digest(filesystem: pafs.FileSystem, path: str) -> str:
    try:
        with filesystem.open_input_stream(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}).") from None


def _damaged(path: str, found: str, wanted: str, cure: str) -> UserError:
    return UserError(f"{path}: the shard is damaged ({found}, the manifest says {wanted}). {cure}")


def remove_strays(uri: str | Path) -> None:
    """Removes the shards that the manifest in place does not name: replaced or unfinished ones.

    Args:
        uri: Root of a set, or of what never became one.
    """
    filesystem, root = resolve(uri)
    complete = filesystem.get_file_info(f"{root}/{MANIFEST}").type != pafs.FileType.NotFound
    kept = {f"{root}/{shard.path}" for shard in load_manifest(uri).shards} if complete else set()
    folder = pafs.FileSelector(f"{root}/{SHARD_FOLDER}", allow_not_found=True)
    for info in filesystem.get_file_info(folder):
        if info.base_name.endswith((".parquet", UNFINISHED)) and info.path not in kept:
            filesystem.delete_file(info.path)


@contextmanager
def without_strays(uri: str | Path) -> Iterator[None]:
    """Whichever manifest is in place in the end, the old or the new: its shards stay, no others."""
    try:
        yield
    finally:
        with suppress(OSError, UserError):
            remove_strays(uri)


class _HashingSink:
    """Passes bytes on to a stream and hashes them on the way, so that none is read again."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        return self.stream.write(data)

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        self.stream.flush()


def _parquet_writer(sink: _HashingSink) -> pq.ParquetWriter:
    # Images are compressed already; statistics and dictionaries of them would only cost.
    return pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="NONE",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group, held = list[Row](), 0
    for row in rows:
        group.append(row)
        held += len(row.image) + len(row.label or b"")
        if len(group) == ROWS_PER_GROUP or held >= BYTES_PER_GROUP:
            yield group
            group, held = [], 0
    if group:
        yield group


def _table(group: list[Row]) -> pa.Table:
    columns = [[getattr(row, name) for row in group] for name in SCHEMA.names]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
