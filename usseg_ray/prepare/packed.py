"""Images that do not lie in a folder as files: Parquet columns, WebDataset archives, buckets.

They are laid out as files once, below a place of their own, so that the way from there is the same
for every source. Names come from elsewhere: none of them leads out of that place.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from usseg_ray.core.cli import UNWRITABLE
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import copy_here, first_line, is_uri, resolve
from usseg_ray.core.sources import is_junk, walk, without_made
from usseg_ray.data.decode import IMAGE_SUFFIXES

PARQUET, TAR = ".parquet", ".tar"

KEPT = Path("runs", ".prepared")
"""Beside the runs: the sets that were made for them, and what was fetched for those."""

_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
"""Columns that are images rather than masks, the surest first."""

_ROWS_AT_A_TIME = 64

_PNG = b"\x89PNG"


def divided(pattern: str, folder: bool = True) -> tuple[str, str]:
    """Divides a URI at the first folder of which only a pattern is known.

    Args:
        pattern: Such as `s3://bucket/labels/{id}.png?region=eu-west-1`.
        folder: Whether one without a pattern is a folder; else it is a file in one.

    Returns:
        The URI of the folder that is known, and what lies below it.
    """
    place, mark, options = pattern.partition("?")
    parts = place.split("/")
    last = len(parts) if folder else len(parts) - 1
    fixed = next((at for at, part in enumerate(parts) if set(part) & set("{*")), last)
    return "/".join(parts[:fixed]) + mark + options, "/".join(parts[fixed:])


def fetch_json(uri: str, name: re.Pattern[str], home: Path) -> Path:
    """Copies JSON files below a URI whose path below it fits.

    Args:
        uri: Of the folder.
        name: What their paths look like.
        home: Below which they are kept.

    Returns:
        The folder of the copies.

    Raises:
        UserError: The place cannot be read.
    """
    filesystem, root = resolve(uri)
    below_root = pafs.FileSelector(root, recursive=True)
    try:
        files = [
            (info, inside)
            for info in filesystem.get_file_info(below_root)
            if info.type == pafs.FileType.File
            and name.fullmatch(inside := str(PurePosixPath(info.path).relative_to(root)))
        ]
        target = home / f"annotations-{_key(info for info, _ in files)}"
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=target.parent) as made:
                for info, inside in files:
                    copy_here(filesystem, info.path, Path(made, *_inside(PurePosixPath(inside))))
                Path(made).rename(target)
                Path(made).mkdir()
    except OSError as error:
        raise UserError(f"{uri}: cannot be read ({first_line(error)}).") from None
    return target


def _key(files: Iterable[pafs.FileInfo]) -> str:
    state = sorted((info.path, info.size, info.mtime_ns) for info in files)
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]


def is_packed(source: str) -> bool:
    """Tells a source whose images are no local files: a URI, an archive, a folder of archives."""
    path = Path(source).expanduser()
    if is_uri(source) or path.suffix in (PARQUET, TAR):
        return True
    if not path.is_dir():
        return False
    suffixes = {file.suffix.lower() for file in walk(path)}
    return bool(suffixes & {PARQUET, TAR}) and not suffixes & IMAGE_SUFFIXES


def unpack_images(source: str, home: Path) -> Path:
    """Lays the images of a source out as files.

    Args:
        source: A Parquet file with an image column, a WebDataset archive, or a folder or URI of
            such files or of images.
        home: Where; what was laid out there before is used again while the source is the same.

    Returns:
        The folder of the files.

    Raises:
        UserError: Nothing is there, it cannot be read, or it is not clear which column is meant.
    """
    filesystem, root = resolve(source)
    try:
        files = _files(filesystem, root)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({first_line(error)}).") from None
    if not files:
        raise UserError(
            f"{source}: no images, *{PARQUET} or *{TAR} here. Give a folder, a bucket or an archive"
            " of images."
        )
    name = PurePosixPath(root).name.split(".")[0] or "images"
    target = home / f"{name}-{_key(files)}" / name
    if not target.is_dir():
        _lay_out(filesystem, root, files, target)
    return target


def _files(filesystem: pafs.FileSystem, root: str) -> list[pafs.FileInfo]:
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.File:
        return [info]
    below = filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    wanted = {PARQUET, TAR, *IMAGE_SUFFIXES}
    found = {
        PurePosixPath(info.path).relative_to(root): info
        for info in below
        if info.type == pafs.FileType.File
    }
    seen = (path for path in without_made(found) if not any(map(is_junk, path.parts)))
    known = (found[path] for path in seen if path.suffix.lower() in wanted)
    return sorted(known, key=lambda info: str(info.path))


def _lay_out(
    filesystem: pafs.FileSystem, root: str, files: list[pafs.FileInfo], target: Path
) -> None:
    """Writes all images beside their place, and gives them their place when all are there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as made:
        count = 0
        for info in files:
            base = PurePosixPath(info.path).relative_to(root) if info.path != root else None
            for name, data in _images(filesystem, info, base or PurePosixPath(info.base_name)):
                _write(data, made, name)
                count += 1
        if not count:
            raise UserError(f"{root}: no images in it.")
        Path(made).rename(target)
        Path(made).mkdir()


def _write(data: bytes, root: str, name: PurePosixPath) -> None:
    """Writes an image below a folder; one whose name no file can have gets another."""
    path = Path(root, *_inside(name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise
        # Too long, of characters that no name has, or a folder's as well.
        digest = hashlib.sha256(repr(name).encode()).hexdigest()[:16]
        Path(root, f"renamed-{digest}{name.suffix.lower()}").write_bytes(data)


def _inside(name: PurePosixPath) -> list[str]:
    """Takes from a name what would lead elsewhere."""
    return [part for part in name.parts if part not in ("/", "..", ".")]


def _images(
    filesystem: pafs.FileSystem, info: pafs.FileInfo, name: PurePosixPath
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields the images of a file, with their names."""
    try:
        if name.suffix == PARQUET:
            yield from _rows(filesystem, info.path, name.with_suffix(""))
        elif name.suffix == TAR:
            yield from _members(filesystem, info.path, name.with_suffix(""))
        else:
            with filesystem.open_input_stream(info.path) as stream:
                yield name, stream.read()
    except (OSError, ValueError, pa.ArrowException, tarfile.TarError) as error:
        raise UserError(f"{info.path}: cannot be read ({first_line(error)}).") from None


def _rows(
    filesystem: pafs.FileSystem, path: str, stem: PurePosixPath
) -> Iterator[tuple[PurePosixPath, bytes]]:
    row = 0
    with filesystem.open_input_file(path) as stream:
        table = pq.ParquetFile(stream)
        column = image_column(table.schema_arrow, path)
        for batch in table.iter_batches(_ROWS_AT_A_TIME, columns=[column]):
            for value in batch.column(0).to_pylist():
                data, named = (
                    (value.get("bytes"), value.get("path"))
                    if isinstance(value, dict)
                    else (value, None)
                )
                if data:
                    yield stem / f"{row:06d}_{_file_name(named, data)}", data
                row += 1


def _file_name(named: str | None, data: bytes) -> str:
    name = PurePosixPath(named or "").name
    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
        return name
    return f"{name or 'image'}{'.png' if data.startswith(_PNG) else '.jpg'}"


def image_column(schema: pa.Schema, path: str) -> str:
    """Finds the column of images: Hugging Face's struct of bytes and path, or bytes alone.

    Args:
        schema: Of the file.
        path: Of the file, for the message.

    Raises:
        UserError: There is none, or several of which none is called as images are.
    """
    found = [field.name for field in schema if _holds_images(field.type)]
    named = [name for known in _NAMES for name in found if name.lower() == known]
    if named:
        return str(named[0])
    if len(found) == 1:
        return str(found[0])
    have = f"several that could be ({', '.join(found)})" if found else "none"
    raise UserError(
        f"{path}: which column has the images? It has {have}. Call it `image`, with values of "
        "bytes, or of a struct with `bytes` and `path`."
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(f.name == "bytes" and _is_binary(f.type) for f in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _members(
    filesystem: pafs.FileSystem, path: str, stem: PurePosixPath
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields one image a sample: what is called KEY.SUFFIX; of two, the one that is no PNG."""
    with (
        filesystem.open_input_file(path) as stream,
        tarfile.open(fileobj=stream, mode="r:") as archive,
    ):
        chosen: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            name = PurePosixPath(member.name)
            key, _, suffix = name.name.partition(".")
            is_image = f".{suffix.lower()}" in IMAGE_SUFFIXES
            if not (member.isfile() and is_image) or is_junk(name.name):
                continue
            before = chosen.get(sample := str(name.parent / key))
            if before is None or before.name.lower().endswith(".png"):
                chosen[sample] = member
        for member in chosen.values():
            held = archive.extractfile(member)
            assert held is not None
            yield stem / member.name, held.read()
