"""Archives -> folders: the only place where a file from elsewhere says which files are written.

It stands before an image's path, behind `download`. An archive comes from the net, so its names are
not trusted: every member is looked at before the first is written, and only plain files are taken.
What is wanted appears in its place in one move, when all of it has been unpacked and checked.
"""

import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from usseg_ray.core.cli import UNWRITABLE
from usseg_ray.core.errors import UserError

# What the libraries say of damaged archives, and the system of names that no file can have.
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error),
)
_COPY_BYTES = 2**20


@dataclass(frozen=True)
class _Member:
    """A plain file in an archive."""

    name: PurePosixPath
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(
    archive: Path,
    scratch: Path,
    places: Mapping[str, Path],
    on_bytes: Callable[[int, int], None],
) -> None:
    """Unpacks folders of an archive and moves each to its place.

    Args:
        archive: A zip file if its name says so, otherwise a tar file, compressed or not.
        scratch: A folder to work in, on the file system of the places; made and removed here. What
            an interrupted run left in it is thrown away.
        places: Folder in the archive -> where it goes; what is there is replaced.
        on_bytes: Called with the bytes that are written and those to write.

    Raises:
        UserError: The archive is damaged, lacks a folder, has a member that would be written
            outside of the target or that is neither file nor folder, or needs more space than is
            free.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with _members(archive) as members:
            wanted = [member for member in members if _is_below(member.name, places)]
            total = sum(member.size for member in wanted)
            require_space(scratch.parent, total, f"what {archive.name} holds")
            done = 0
            for member in wanted:
                _write(member, scratch.joinpath(*member.name.parts))
                done += member.size
                on_bytes(done, total)
        for inside, place in places.items():
            _move(archive, scratch.joinpath(*PurePosixPath(inside).parts), place)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:  # not the archive's fault
            raise
        raise UserError(
            f"{archive}: cannot be unpacked ({error}). Remove it and run again."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Ends with a `UserError` if a folder's disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:.1f} GB are needed for {what}, {free / 1e9:.1f} GB are free."
        )


def _is_below(name: PurePosixPath, places: Mapping[str, Path]) -> bool:
    return any(name.is_relative_to(inside) for inside in places)


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield [
                _Member(_checked(archive, info.filename), info.file_size, _zip_opener(packed, info))
                for info in packed.infolist()
                if not info.filename.endswith("/")  # `is_dir` fails on an empty name
            ]
    else:
        with tarfile.open(archive) as packed_tar:
            yield [
                _Member(_checked(archive, info.name), info.size, _tar_opener(packed_tar, info))
                for info in packed_tar.getmembers()
                if not _is_folder(archive, info)
            ]


def _zip_opener(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: packed.open(info)


def _tar_opener(packed: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes] | None]:
    return lambda: packed.extractfile(info)


def _checked(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise UserError(f"{archive}: refused, its member {name!r} leads out of the target folder.")
    return path


def _is_folder(archive: Path, info: tarfile.TarInfo) -> bool:
    # A link could lead later members anywhere, and no data set needs one.
    if not (info.isfile() or info.isdir()):
        raise UserError(f"{archive}: refused, its member {info.name!r} is no file and no folder.")
    return info.isdir()


def _write(member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target, _COPY_BYTES)


def _move(archive: Path, unpacked: Path, place: Path) -> None:
    if not unpacked.is_dir():
        raise UserError(f"{archive}: has no folder {unpacked.name!r}, so it is another archive.")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.rmtree(place)
    unpacked.rename(place)
