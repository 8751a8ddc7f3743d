"""Which images there are: a file, a folder or a URI, as a list of names and stamps.

Names of outputs mirror those of the images. Links that lead out of the folder are not followed, and
what is no image by its suffix is counted.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import fs as pafs

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line, is_uri, resolve
from usseg_ray.core.sources import is_junk, is_made, without_made
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import HEIC_SUFFIXES, IMAGE_SUFFIXES, MAX_FILE_BYTES


@dataclass(frozen=True)
class ImageFile:
    """An image's file.

    Attributes:
        name: Its path below the folder.
        key: What its outputs are called: the name without its suffix, where no other has that.
        path: In the file system.
        stamp: Bytes, and when it was written (ns).
    """

    name: str
    key: str
    path: str
    stamp: tuple[int, int]


@dataclass(frozen=True)
class ImageFiles:
    """All images of a place.

    Attributes:
        place: The file, folder or URI, as it was given.
        folder: What names are below: a path without links, or one in a bucket.
        found: The images, by name.
        notes: What was passed over, a line each.
    """

    place: str
    folder: str
    found: tuple[ImageFile, ...]
    notes: tuple[str, ...]


def find_images(place: str, out: str) -> ImageFiles:
    """Lists the images of a place.

    Args:
        place: A file, a folder or a URI; folders are looked through.
        out: Where outputs go, which are no images even where they lie below.

    Raises:
        UserError: There is nothing there, or no image.
    """
    if not _is_text(place):
        raise UserError(f"--images {place!r}: the name is not UTF-8. Rename the folder or file.")
    filesystem, root = resolve(place)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise UserError(f"--images {place}: no such folder or file.")
    passed = Counter[str]()
    if info.type == pafs.FileType.File:
        listed: Iterator[pafs.FileInfo] = iter([info])
        root = root.rpartition("/")[0]
    elif is_uri(place):
        listed = _listed_there(filesystem, root)
    else:
        listed = _listed_here(Path(root), Path(out).absolute(), passed)
    images = [
        (info.path[len(root) :].lstrip("/"), info) for info in listed if _is_image(info, passed)
    ]
    if not images:
        raise UserError(
            f"{place}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))}). "
            f"{' '.join(_told(passed))}".rstrip()
        )
    folder = str(Path(root).resolve()) if filesystem.type_name == "local" else root
    return ImageFiles(place, folder, tuple(_named(images)), tuple(_told(passed)))


def read_bytes(filesystem: pafs.FileSystem, found: ImageFile) -> bytes:
    """Reads an image's file.

    Raises:
        UndecodableError: It is too large, or cannot be read.
    """
    if found.stamp[0] > MAX_FILE_BYTES:
        raise UndecodableError(f"larger than {MAX_FILE_BYTES // 2**30} GiB")
    try:
        with filesystem.open_input_stream(found.path) as stream:
            data: bytes = stream.read()
    except OSError as error:
        raise UndecodableError(f"cannot be read ({first_line(error)})") from None
    return data


def _listed_here(root: Path, out: Path, passed: Counter[str]) -> Iterator[pafs.FileInfo]:
    """Lists files below a folder; linked folders are not entered, nor is that of the outputs."""
    inside = root.resolve()
    local = pafs.LocalFileSystem()
    for place, below, names in os.walk(root):
        here = Path(place)
        if here != root and is_made(here.name, (*below, *names)):
            passed["folders of runs"] += 1
            below.clear()
            continue
        below[:] = sorted(name for name in below if not is_junk(name) and here / name != out)
        passed["links to folders"] += sum((here / name).is_symlink() for name in below)
        paths = [here / name for name in sorted(names)]
        for path in paths:
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                passed["links out of the folder"] += 1
            elif is_junk(path.name):
                passed["hidden"] += 1
            elif not _is_text(str(path)):
                passed["names that are not UTF-8"] += 1
            elif path.is_file():
                yield local.get_file_info(str(path))
            else:
                passed["broken links and the like"] += 1


def _listed_there(filesystem: pafs.FileSystem, root: str) -> Iterator[pafs.FileInfo]:
    infos = {
        PurePosixPath(info.path[len(root) :].lstrip("/")): info
        for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
        if info.type == pafs.FileType.File
    }
    for below in without_made(infos):
        if not any(map(is_junk, below.parts)):
            yield infos[below]


def _is_text(path: str) -> bool:
    """Tells whether a path is UTF-8, as file systems here and records of outputs need it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_image(info: pafs.FileInfo, passed: Counter[str]) -> bool:
    suffix = PurePosixPath(info.path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    passed[suffix or "without suffix"] += 1
    return False


def _named(images: list[tuple[str, pafs.FileInfo]]) -> Iterator[ImageFile]:
    """Names outputs; images that would have one name keep their suffixes, until none is shared."""
    keys = {name: str(PurePosixPath(name).with_suffix("")) for name, _ in images}
    while True:
        taken = Counter(key.casefold() for key in keys.values())
        shared = {name for name, key in keys.items() if key != name and taken[key.casefold()] > 1}
        if not shared:
            break
        keys |= {name: name for name in shared}
    for name, info in sorted(images, key=lambda image: image[0]):
        yield ImageFile(name, keys[name], info.path, (info.size or 0, info.mtime_ns or 0))


def _told(passed: Counter[str]) -> list[str]:
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(passed.items()) if count)
    lines = [f"{passed.total()} files passed over: {told}."] if told else []
    if passed.keys() & HEIC_SUFFIXES:
        lines.append("HEIC files are read with an extra: pip install 'usseg-ray[heic]'.")
    return lines
