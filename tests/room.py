"""A full disk, for one process: the kernel refuses files that grow."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def no_room(path: Path, more: int = 0) -> Iterator[None]:
    """Has this process write no file beyond the size that one has now.

    Args:
        path: The file.
        more: Bytes by which it may still grow.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
