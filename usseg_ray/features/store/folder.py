"""A folder of entries on this machine: who may write, who reads, and what goes when it is full.

Under `store`. Two locks an entry, both of the kernel's kind (`flock`), so that a killed process
holds none: whoever has the *building* lock writes shards, all others wait; whoever reads has the
*use* lock together with other readers, and an entry in use is never removed. The locks lie beside
the entries, since those come and go. The time of a use lock is that of the last use.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from usseg_ray.core.errors import UserError
from usseg_ray.data.library import cache_root
from usseg_ray.features.store.blocks import (
    list_parts,
    list_shards,
    load_entry_manifest,
    missing_shards,
)
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.recipe import EntryManifest, Part

FOLDER = "USSEG_FEATURES"
LIMIT = "USSEG_FEATURES_GB"
LOCKS = ".locks"
REMOVED = ".removed-"
GB = 1e9
POLL_S = 0.5
RESERVE = 0.1
"""Share of the disk that stays free: runs are written too, and Ray stops at 5 %."""


@dataclass(frozen=True)
class EntryState:
    """An entry as the folder has it.

    Attributes:
        manifest: What it is.
        path: Where it lies.
        complete: Parts of which every shard is there.
        partial: Parts of which some are not.
        num_bytes: Size of all its files.
        used_at: When it was last opened, seconds since 1970.
        in_use: Whether a process has it open.
    """

    manifest: EntryManifest
    path: Path
    complete: tuple[Part, ...]
    partial: tuple[Part, ...]
    num_bytes: int
    used_at: float
    in_use: bool


class FeatureFolder:
    """Entries under a local folder, at most so many bytes of them.

    Args:
        root: The folder; made when the first entry is.
        limit_bytes: Size that is kept by removing the entries that were used least recently; half
            of the disk if unset.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root = root
        self._limit_bytes = limit_bytes

    @property
    def limit_bytes(self) -> int:
        """Size that all entries may have together."""
        if self._limit_bytes is not None:
            return self._limit_bytes
        return shutil.disk_usage(_existing(self.root)).total // 2

    @property
    def reserve(self) -> int:
        """Bytes of the disk that nothing is stored in unasked."""
        return int(RESERVE * shutil.disk_usage(_existing(self.root)).total)

    def path(self, key: str) -> Path:
        """Says where an entry lies, or would."""
        return self.root / key

    def entries(self) -> list[EntryState]:
        """Lists the entries that can be read, the most recently used first."""
        if not self.root.is_dir():
            return []
        found = []
        for path in self.root.iterdir():
            with suppress(UserError):
                manifest = None if path.name.startswith(".") else load_entry_manifest(path)
                if manifest is not None:
                    found.append(self._kept(path, manifest))
        return sorted(found, key=lambda kept: -kept.used_at)

    def _kept(self, path: Path, manifest: EntryManifest) -> EntryState:
        parts = [part for part in list_parts(path) if list_shards(path, part)]
        partial = [part for part in parts if missing_shards(path, manifest, (part,))]
        lock = self._lock(manifest.key, "use")
        return EntryState(
            manifest,
            path,
            tuple(part for part in parts if part not in partial),
            tuple(partial),
            _num_bytes(path),
            lock.stat().st_mtime if lock.exists() else path.stat().st_mtime,
            in_use=_taken(lock),
        )

    def open(self, key: str, parts: Iterable[Part]) -> FeatureEntry | None:
        """Opens an entry for reading; it cannot be removed until the `FeatureEntry` is closed.

        Args:
            key: Which.
            parts: What is read.

        Returns:
            The entry; `None` where any shard of these parts is missing.
        """
        if not self.path(key).is_dir():
            return None
        parts = tuple(parts)
        held = self.hold(key)
        entry = None
        try:
            manifest = load_entry_manifest(self.path(key))
            if manifest is not None and not missing_shards(self.path(key), manifest, parts):
                entry = FeatureEntry(self.path(key), manifest, parts, held)
        finally:
            if entry is None:
                os.close(held)
        return entry

    def hold(self, key: str) -> int:
        """Keeps an entry from being removed, and counts as its last use.

        Returns:
            A file descriptor; closing it lets go.
        """
        held = self._open_lock(key, "use")
        fcntl.flock(held, fcntl.LOCK_SH)
        os.utime(held)
        return held

    @contextmanager
    def building(self, key: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Lets one process at a time write an entry, and keeps it while that one does.

        Args:
            key: Which.
            on_wait: Called once, if another process is writing.
        """
        lock = self._open_lock(key, "building")
        try:
            if not _try(lock, fcntl.LOCK_EX):
                on_wait()
                while not _try(lock, fcntl.LOCK_EX):
                    time.sleep(POLL_S)
            held = self.hold(key)
            try:
                yield
            finally:
                os.close(held)
        finally:
            os.close(lock)

    def room(self, key: str) -> int:
        """Counts the bytes that an entry may have here: free, or held by what may be removed."""
        others = [kept for kept in self.entries() if kept.manifest.key != key]
        fixed = sum(kept.num_bytes for kept in others if kept.in_use)
        removable = sum(kept.num_bytes for kept in others if not kept.in_use)
        own = _num_bytes(self.path(key))
        free = shutil.disk_usage(_existing(self.root)).free
        return max(0, min(self.limit_bytes - fixed, free + removable + own))

    def make_room(self, key: str, num_bytes: int) -> list[EntryState]:
        """Removes the entries used least recently until an entry of a size has its place.

        Args:
            key: The entry that the room is for.
            num_bytes: Its full size.

        Returns:
            What was removed.

        Raises:
            UserError: There is not so much room even then; nothing was removed.
        """
        self.clear_removed()
        if num_bytes > (room := self.room(key)):
            raise UserError(
                f"{self.root}: {num_bytes / GB:.1f} GB of features do not fit, {room / GB:.1f} GB "
                f"could be had (limit {self.limit_bytes / GB:.1f} GB). Raise {LIMIT}, or choose "
                f"another disk with {FOLDER}."
            )
        removed = []
        missing = num_bytes - _num_bytes(self.path(key))
        for kept in reversed(self.entries()):
            total = sum(other.num_bytes for other in self.entries())
            free = shutil.disk_usage(self.root).free if self.root.exists() else missing
            if total + missing <= self.limit_bytes and missing <= free:
                break
            if kept.manifest.key != key and self.remove(kept.manifest.key):
                removed.append(kept)
        return removed

    def remove(self, key: str) -> bool:
        """Removes an entry.

        Returns:
            Whether it was; not if it is in use.
        """
        lock = self._open_lock(key, "use")
        try:
            if not _try(lock, fcntl.LOCK_EX):
                return False
            gone = self.root / f"{REMOVED}{uuid.uuid4().hex}"
            with suppress(FileNotFoundError):
                self.path(key).rename(gone)
        finally:
            os.close(lock)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def clear_removed(self) -> None:
        """Removes what a killed process had begun to remove."""
        for path in self.root.glob(f"{REMOVED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _lock(self, key: str, kind: str) -> Path:
        return self.root / LOCKS / f"{key}.{kind}"

    def _open_lock(self, key: str, kind: str) -> int:
        path = self._lock(key, kind)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(self.root, error) from error


def unwritable(root: Path, error: OSError) -> UserError:
    """Words the error for a folder that cannot be written."""
    return UserError(f"{root}: cannot be written ({error}). Choose another folder with {FOLDER}.")


def default_folder() -> FeatureFolder:
    """Gives the folder of `$USSEG_FEATURES`, else that beside the prepared sets.

    Raises:
        UserError: The limit in the environment is not a number.
    """
    chosen, limit = os.environ.get(FOLDER), os.environ.get(LIMIT)
    root = Path(chosen).expanduser().absolute() if chosen else cache_root() / "feature-store"
    if not limit:
        return FeatureFolder(root)
    try:
        return FeatureFolder(root, int(float(limit) * GB))
    except ValueError:
        raise UserError(f"{LIMIT}={limit}: not a number of gigabytes.") from None


def _try(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _taken(lock: Path) -> bool:
    if not lock.exists():
        return False
    file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not _try(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


def _num_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("**/*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
