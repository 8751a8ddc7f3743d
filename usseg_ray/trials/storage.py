"""Where a run is kept: a folder that all machines share, or a folder here and its copy at a URI.

It stands beside `trial` and `contexts`, which write a run's files: they write them into a folder,
as ever, and then say which are complete. Of a run in a plain folder nothing more happens. Of a run
at a URI those files are copied to it, and on another machine, or in another life, from it. Files
of object stores appear as a whole or not at all; names that start with a dot are no one's.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs as pafs

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import copy_here, copy_there, is_uri, resolve

THREADS = 16


def below(place: str, name: str) -> str:
    """Names something below a folder or a URI; what follows a `?` stays at the end."""
    path, mark, options = place.partition("?") if is_uri(place) else (place, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


@dataclass(frozen=True)
class Storage:
    """A folder here, and the URI at which its files are kept.

    Attributes:
        folder: Here.
        uri: Empty where the folder itself is what is kept.
    """

    folder: Path
    uri: str = ""

    @property
    def place(self) -> str:
        """What `opened` takes."""
        return self.uri or str(self.folder)

    def sub(self, name: str) -> "Storage":
        """Names a folder below, kept in the same way."""
        return Storage(self.folder / name, below(self.uri, name) if self.uri else "")

    def push(self, *names: str) -> None:
        """Copies files, and all files of folders, to the URI.

        Args:
            names: Below the folder; those that do not exist are passed over.

        Raises:
            UserError: The URI cannot be written.
        """
        if not self.uri:
            return
        filesystem, root = resolve(self.uri)
        paths = [self.folder / name for name in names]
        found = [f for path in paths for f in (path, *sorted(path.rglob("*"))) if f.is_file()]
        files = [file for file in found if not file.name.startswith(".")]
        targets = [f"{root}/{file.relative_to(self.folder).as_posix()}" for file in files]
        try:
            for file, target in zip(files, targets, strict=True):
                copy_there(file, filesystem, target)
        except OSError as error:
            raise UserError(f"{self.uri}: cannot be written ({error}).") from error

    def fetch(self, *names: str) -> None:
        """Copies files, and all files of folders, from the URI.

        Args:
            names: Below the URI; those that do not exist are passed over.
        """
        if not self.uri:
            return
        filesystem, root = resolve(self.uri)
        paths = list[str]()
        for name in names:
            if filesystem.get_file_info(f"{root}/{name}").type == pafs.FileType.File:
                paths.append(f"{root}/{name}")
            else:
                paths += _files(filesystem, f"{root}/{name}")
        self._fetch(filesystem, root, paths)

    def fetch_named(self, *files: str) -> None:
        """Copies all files with one of some names in the URI's own folder and those just below."""
        if not self.uri:
            return
        filesystem, root = resolve(self.uri)
        folders = [root, *(f"{root}/{name}" for name in self.folders(""))]
        self._fetch(filesystem, root, (f"{folder}/{file}" for folder in folders for file in files))

    def files(self) -> list[str]:
        """Lists the names of the files at the URI itself, in order.

        Raises:
            UserError: It cannot be read.
        """
        filesystem, root = resolve(self.uri)
        try:
            found = filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True))
        except OSError as error:
            raise UserError(f"{self.uri}: cannot be read ({error}).") from None
        return sorted(info.base_name for info in found if info.type == pafs.FileType.File)

    def folders(self, name: str) -> list[str]:
        """Lists the names of the folders below one, in order, those with a dot left out."""
        if not self.uri:
            path = self.folder / name
            found = [p.name for p in path.iterdir() if p.is_dir()] if path.is_dir() else []
        else:
            filesystem, root = resolve(self.uri)
            there = pafs.FileSelector(f"{root}/{name}".rstrip("/"), allow_not_found=True)
            found = [
                info.base_name
                for info in filesystem.get_file_info(there)
                if info.type == pafs.FileType.Directory
            ]
        return sorted(n for n in found if not n.startswith("."))

    def keep_only(self, folder: str, names: Collection[str]) -> None:
        """Removes all other folders below one, here and at the URI.

        What cannot be removed is left: a process that outlived its node may be writing there.
        """
        for other in (self.folder / folder).iterdir():
            if other.name not in names:
                shutil.rmtree(other, ignore_errors=True)
        if self.uri:
            filesystem, root = resolve(self.uri)
            for name in self.folders(folder):
                if name not in names:
                    with suppress(OSError):
                        filesystem.delete_dir(f"{root}/{folder}/{name}")

    def _fetch(self, filesystem: pafs.FileSystem, root: str, paths: Iterable[str]) -> None:
        def fetch(path: str) -> None:
            with suppress(FileNotFoundError):
                copy_here(filesystem, path, self.folder / path.removeprefix(f"{root}/"))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(fetch, paths))


@contextmanager
def opened(place: str) -> Iterator[Storage]:
    """Opens a run's or a trial's place for work in this process.

    Args:
        place: A folder, or a URI.

    Yields:
        The folder itself; of a URI an empty folder of this process, which is removed at the end.
    """
    if not is_uri(place):
        yield Storage(Path(place))
        return
    with tempfile.TemporaryDirectory(prefix="usseg-") as folder:
        yield Storage(Path(folder), place)


def _files(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    found = filesystem.get_file_info(
        pafs.FileSelector(folder, allow_not_found=True, recursive=True)
    )
    return [info.path for info in found if info.type == pafs.FileType.File]
