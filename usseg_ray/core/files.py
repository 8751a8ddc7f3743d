"""Where files lie and how they are written: whole or not at all.

A place is a path, or a URI that PyArrow's file systems open. Every file that the package writes
goes through `write_whole` or one of its kin: a full disk, a killed process or a writer that fails
leaves what stood there before. Unfinished files have names of their own that begin with a dot,
which every reader passes over.
"""

import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from usseg_ray.core.errors import UserError

if TYPE_CHECKING:
    from pyarrow import fs as pafs

UNFINISHED = ".unfinished"
"""How the names of files end that are being written."""

CHUNK_BYTES = 8 * 2**20

OBJECT_STORES = ("s3", "gcs", "abfs")
"""They have no folders to make, and charge for each request."""

Content = str | bytes | memoryview | Callable[[BinaryIO], object]
"""Of a file: text (UTF-8), bytes, or what writes them to a stream."""


Result = TypeVar("Result")


class OtherContentError(Exception):
    """A copied file has not the content that its source promises."""


def is_uri(place: str | Path) -> bool:
    """Tells a URI from a folder."""
    return "://" in str(place)


def resolve(uri: str | Path) -> tuple["pafs.FileSystem", str]:
    """Finds the file system of a folder or URI, and the path in it.

    Args:
        uri: A local path or anything that `pyarrow.fs.FileSystem.from_uri` knows.

    Returns:
        The file system, and the path without a slash at its end.

    Raises:
        UserError: The URI's scheme is unknown or its place cannot be reached.
    """
    from pyarrow import fs as pafs  # noqa: PLC0415 (brings numpy: not for --help)

    if not is_uri(uri):
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = pafs.FileSystem.from_uri(str(uri))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{uri}: cannot be opened ({first_line(error)}).") from None
    return filesystem, path.rstrip("/")


def first_line(error: BaseException) -> str:
    """Cuts a library's error to what fits into one of ours."""
    return str(error).strip().split("\n", maxsplit=1)[0]


def write_whole(path: Path, content: Content) -> None:
    """Writes a file as a whole or not at all; missing folders are made.

    What stood there stays until the new content is on the disk, and nothing else is left of a write
    that fails.

    Args:
        path: Where.
        content: Text, bytes, or a function that writes to the binary stream that it is given.

    Raises:
        OSError: The disk is full, for example.
    """
    _write_here(path.parent, lambda stream: _named(path.name, content, stream))


def write_whole_at(filesystem: "pafs.FileSystem", path: str, content: Content) -> None:
    """Writes a file to a file system that `resolve` found, as `write_whole` does."""
    folder, _, name = path.rpartition("/")
    write_named(filesystem, folder, lambda stream: _named(name, content, stream))


def write_named(
    filesystem: "pafs.FileSystem", folder: str, write: Callable[[BinaryIO], tuple[str, Result]]
) -> Result:
    """Writes a file whose name depends on its content, as `write_whole` does.

    Args:
        filesystem: As `resolve` found it.
        folder: Path in it.
        write: Writes to the stream that it is given; returns the file's name, and what else it
            found.

    Returns:
        What else it found.
    """
    if filesystem.type_name == "local":
        return _write_here(Path(folder), write)
    return _write_there(filesystem, folder, write)


def copy_here(
    filesystem: "pafs.FileSystem", source: str, target: Path, sha256: str | None = None
) -> None:
    """Copies a file from a file system, seen here only when it is complete.

    Args:
        filesystem: As `resolve` found it.
        source: Path in it.
        target: Path here.
        sha256: What its bytes must have, if that is known.

    Raises:
        FileNotFoundError: There is no such file; nothing is written.
        OtherContentError: Its bytes have another hash; nothing is written.
    """

    def copy(stream: BinaryIO) -> None:
        found = hashlib.sha256()
        while chunk := there.read(CHUNK_BYTES):
            stream.write(chunk)
            if sha256:
                found.update(chunk)
        if sha256 and found.hexdigest() != sha256:
            raise OtherContentError(f"{source}: its sha256 is not {sha256}.")

    with filesystem.open_input_stream(source) as there:
        write_whole(target, copy)


def copy_there(source: Path, filesystem: "pafs.FileSystem", target: str) -> None:
    """Copies a file to a file system, seen there only when it is complete."""

    def copy(stream: BinaryIO) -> None:
        while chunk := here.read(CHUNK_BYTES):
            stream.write(chunk)

    with source.open("rb") as here:
        write_whole_at(filesystem, target, copy)


def sweep_unfinished(folder: Path) -> None:
    """Removes what killed writers left in a folder; for whoever has the lock of it."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _named(name: str, content: Content, stream: BinaryIO) -> tuple[str, None]:
    if callable(content):
        content(stream)
    else:
        stream.write(content.encode() if isinstance(content, str) else content)
    return name, None


def _write_here(folder: Path, write: Callable[[BinaryIO], tuple[str, Result]]) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / _unfinished_name()
    try:
        with unfinished.open("xb") as stream:
            name, found = write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(folder / name)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    # The file is whole by now; some network file systems cannot do more for its name.
    with suppress(OSError):
        _sync(folder)
    return found


def _write_there(
    filesystem: "pafs.FileSystem", folder: str, write: Callable[[BinaryIO], tuple[str, Result]]
) -> Result:
    if filesystem.type_name not in OBJECT_STORES:
        filesystem.create_dir(folder, recursive=True)
    unfinished = f"{folder}/{_unfinished_name()}"
    try:
        with filesystem.open_output_stream(unfinished) as stream:
            name, found = write(stream)
        filesystem.move(unfinished, f"{folder}/{name}")
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(unfinished)
        raise
    return found


def _unfinished_name() -> str:
    return f".{uuid.uuid4().hex}{UNFINISHED}"


def _sync(folder: Path) -> None:
    """Puts a folder's names on the disk, as `fsync` of a file does not."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
