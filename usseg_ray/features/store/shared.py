"""A store that several machines share, at any URI: entries are copied from it and to it.

Beside `folder`, which every machine reads from: Arrow files are mapped from a local disk and never
read over the network. A shard is hashed on its way here, and appears under its name in one move
there. File systems of this kind have no locks; a *claim* is a file whose owner changes it all the
time, and who finds that it stands still takes over. Should two claim at the same moment, they
compute the same shards twice and both are right.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pyarrow import fs as pafs

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import (
    OtherContentError,
    copy_here,
    copy_there,
    resolve,
    write_whole_at,
)
from usseg_ray.features.store.blocks import (
    MANIFEST,
    list_parts,
    list_shards,
    missing_shards,
    parse_name,
)
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.recipe import EntryManifest, Part

CLAIM = "building.json"


class SharedStore:
    """Entries at a place that all machines reach.

    Args:
        filesystem: How it is reached.
        root: Path in it.
        beat_s: Seconds between two signs of life of whoever computes an entry.
    """

    def __init__(self, filesystem: pafs.FileSystem, root: str, beat_s: float = 10.0) -> None:
        self._filesystem, self._root, self._beat_s = filesystem, root, beat_s

    @classmethod
    def at(cls, uri: str) -> "SharedStore":
        """Opens the store at a URI.

        Raises:
            UserError: It cannot be reached.
        """
        return cls(*resolve(uri))

    def manifest(self, key: str) -> EntryManifest | None:
        """Reads an entry's manifest; `None` where there is no such entry."""
        content = self._read(f"{self._root}/{key}/{MANIFEST}")
        return EntryManifest.model_validate_json(content) if content else None

    def fetch(
        self, folder: FeatureFolder, key: str, parts: tuple[Part, ...], say: Callable[[str], None]
    ) -> None:
        """Copies the shards that a folder lacks; whoever calls has the entry's building lock.

        Args:
            folder: Where to.
            key: Which entry.
            parts: What is needed of it.
            say: Told of every damaged shard; it is removed, so that it is computed again.
        """
        manifest = self.manifest(key)
        if manifest is None:
            return
        here = folder.path(key)
        missing = missing_shards(here, manifest, parts)
        for part in parts:
            for index, (name, digest) in self._shards(key, part).items():
                if part not in missing.get(index, ()):
                    continue
                path = f"{self._root}/{key}/{part}/{name}"
                try:
                    copy_here(self._filesystem, path, here / part / name, digest)
                except OtherContentError:
                    say(f"shard {part}/{index:06d} of {key} is damaged in {self._root}: removed")
                    self._filesystem.delete_file(path)

    def push(self, folder: FeatureFolder, key: str) -> None:
        """Copies the shards that the shared store lacks to it, and the manifest before them."""
        here, there = folder.path(key), f"{self._root}/{key}"
        if self.manifest(key) is None:
            copy_there(here / MANIFEST, self._filesystem, f"{there}/{MANIFEST}")
        for part in list_parts(here):
            known = self._shards(key, part)
            for index, shard in list_shards(here, part).items():
                if index not in known:
                    target = f"{there}/{part}/{shard.path.name}"
                    copy_there(shard.path, self._filesystem, target)

    @contextmanager
    def claimed(self, key: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Claims an entry for computing it, once nobody else does.

        Args:
            key: Which.
            on_wait: Called once, if another process computes it.

        Raises:
            UserError: The shared place cannot be written.
        """
        path, owner = f"{self._root}/{key}/{CLAIM}", uuid.uuid4().hex
        try:
            self._claim(path, owner, on_wait)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error}).") from error
        ended = threading.Event()

        def beat() -> None:
            number = 0
            while not ended.wait(self._beat_s):
                number += 1
                with suppress(OSError):  # a beat may be missed
                    write_whole_at(self._filesystem, path, json.dumps([owner, number]))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                self._filesystem.delete_file(path)

    def _claim(self, path: str, owner: str, on_wait: Callable[[], None]) -> None:
        waiting = False
        while True:
            seen, since = self._read(path), time.monotonic()
            # As many beats may be missed before an owner counts as dead.
            while seen is not None and time.monotonic() - since < 6 * self._beat_s:
                if not waiting:
                    on_wait()
                    waiting = True
                time.sleep(self._beat_s / 4)
                now = self._read(path)
                if now != seen:
                    seen, since = now, time.monotonic()
            mine = json.dumps([owner, 0]).encode()
            write_whole_at(self._filesystem, path, mine)
            time.sleep(self._beat_s / 10)
            if self._read(path) == mine:
                return

    def _shards(self, key: str, part: Part) -> dict[int, tuple[str, str]]:
        """Lists a part's shards by index: file name and sha256."""
        folder = pafs.FileSelector(f"{self._root}/{key}/{part}", allow_not_found=True)
        names = [info.base_name for info in self._filesystem.get_file_info(folder)]
        parsed = [(name, found) for name in sorted(names) if (found := parse_name(name))]
        return {index: (name, digest) for name, (index, digest) in parsed}

    def _read(self, path: str) -> bytes | None:
        try:
            with self._filesystem.open_input_stream(path) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content
