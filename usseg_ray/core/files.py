"""Where files lie: a path, or a URI that PyArrow's file systems open."""

from pathlib import Path

from pyarrow import fs as pafs

from usseg_ray.core.errors import UserError


def resolve(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """Finds the file system of a folder or URI, and the path in it.

    Args:
        uri: A local path or anything that `pyarrow.fs.FileSystem.from_uri` knows.

    Returns:
        The file system, and the path without a slash at its end.

    Raises:
        UserError: The URI's scheme is unknown or its place cannot be reached.
    """
    if "://" not in str(uri):
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = pafs.FileSystem.from_uri(str(uri))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{uri}: cannot be opened ({first_line(error)}).") from None
    return filesystem, path.rstrip("/")


def first_line(error: BaseException) -> str:
    """Cuts a library's error to what fits into one of ours."""
    return str(error).strip().split("\n", maxsplit=1)[0]
