"""Shards are read and hashed before they are believed, once for each size and time of their files.

A flipped bit in a picture decodes as a rule, and trains and scores without a word. What was found
right is remembered in a folder of this machine, so that the next sweep asks for sizes and times
alone. Buckets keep checksums of their own: of those, sizes are compared and nothing is read.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from pyarrow import fs as pafs

from usseg_ray.core.files import resolve
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.data.manifest import AGAIN, Manifest
from usseg_ray.data.shards import State, check_sizes, verify


def verify_once(manifest: Manifest, uri: str, memory: Path, cure: str = AGAIN) -> None:
    """Checks the shards of a set that have not been checked as they are now.

    Args:
        manifest: Of the set.
        uri: Root of the set.
        memory: Folder that remembers.
        cure: What to do about a shard that is not right.

    Raises:
        UserError: A shard is missing or has other bytes.
    """
    filesystem, root = resolve(uri)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        check_sizes(manifest, uri, cure)
        return
    note = memory / f"{hashlib.sha256(root.encode()).hexdigest()[:16]}.json"
    known: dict[str, State] = {}
    with suppress(OSError, DamagedError):
        known = read_json(note, dict[str, State], "It is made again.")
    states = verify(manifest, uri, known, cure)
    if states != known:
        # A folder that cannot be written costs the next sweep the same reading, and nothing else.
        with suppress(OSError):
            write_json(note, states)
