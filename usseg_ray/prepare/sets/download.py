"""A publisher's server -> archives in a folder, checked and unpacked.

It stands before an image's path: what it leaves in the folder is the official layout that
`prepare.sets` finds images in. Files are large and lines break, so nothing that has arrived is
fetched again: a part stays beside its place under `FILE.part`, the next attempt or run asks for
what is missing, and a file gets its name once its size and checksum are right. `FILE.json` then
says what was found, so that a second run does nothing.

It needs the standard library only: `urllib` knows proxies, redirects and byte ranges, which is all
that is asked of it, and this layer may not lean on what only the shell above it installs.
"""

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole
from usseg_ray.prepare.sets.unpack import require_space, unpack

ATTEMPTS = 5
TIMEOUT_SECONDS = 60.0

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, the bytes that are done, and those in all where that is known."""

_CHUNK_BYTES = 2**20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)
_PARTIAL, _BEYOND_THE_END = 206, 416


@dataclass(frozen=True)
class Archive:
    """A file that a publisher offers.

    Attributes:
        url: Where; https, as nothing else says who is answering.
        file: Where it is kept, below the data set's folder.
        sha256: Of the file; `None` where nobody who can be trusted states one.
        size: In bytes, where that is known.
        unpacks: Folder inside -> the place that it gets below the data set's folder; empty where
            the file itself is what is wanted.
    """

    url: str
    file: str
    sha256: str | None = None
    size: int | None = None
    unpacks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Version:
    """What a server says of a file, by which a changed one is known."""

    etag: str | None
    modified: str | None
    size: int | None


class _BrokenTransfer(Exception):  # noqa: N818
    """An attempt ended early; another may go on where it ended."""


def obtain(
    archives: Sequence[Archive],
    folder: str | Path,
    on_progress: Progress = lambda *_: None,
    *,
    pause: float = 1.0,
) -> None:
    """Fetches archives into a folder and unpacks them there; what is there already stays.

    Args:
        archives: Which.
        folder: The data set's; made if it is not there.
        on_progress: Called again and again while bytes arrive, are checked and are unpacked.
        pause: Seconds before the second attempt at a file; doubled before every further one.

    Raises:
        UserError: A file cannot be had, is not the published one, or cannot be unpacked; a place
            in the folder is taken; or the disk is too small. What has arrived is kept.
    """
    root = Path(folder).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        wanted = missing(archives, root)
        for archive in wanted:
            _check_places(archive, root)
        require_space(root, sum(_bytes_to_write(archive, root) for archive in wanted), "the files")
        for archive in wanted:
            path = fetch_archive(archive, root, on_progress, pause=pause)
            if archive.unpacks:
                _unpack(archive, path, root, on_progress)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}). Free or choose another.") from None


def missing(archives: Sequence[Archive], folder: str | Path) -> list[Archive]:
    """Lists the archives that `obtain` has work with: those not fetched, checked and unpacked."""
    root = Path(folder).expanduser().absolute()
    return [archive for archive in archives if not _is_complete(archive, root)]


def fetch_archive(
    archive: Archive, root: Path, on_progress: Progress = lambda *_: None, *, pause: float = 1.0
) -> Path:
    """Fetches one file, or checks the one that is there.

    Where no checksum is published, the one that is found is remembered in `FILE.json`, and a file
    that is fetched anew must have it again.

    Args:
        archive: Which.
        root: The data set's folder.
        on_progress: As for `obtain`.
        pause: As for `obtain`.

    Returns:
        The file.

    Raises:
        UserError: It cannot be had, or is not the published one.
    """
    path = root / archive.file
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    found_at = path if there else _sibling(path, ".part")
    if not there:
        _download(archive, found_at, on_progress, pause)
    found = _sha256(found_at, f"{path.name}: checking", on_progress)
    expected = archive.sha256 or _record(path).get("sha256", found)
    if found != expected:
        if not there:
            _discard(found_at)
        says = "published" if archive.sha256 else f"as in {_sibling(path, '.json')}"
        raise UserError(
            f"{archive.url}: not the file that was expected. "
            + (f"Remove {path} to fetch it again." if there else "What was fetched is removed.")
            + f"\nExpected sha256 {expected} ({says}), found {found}."
        )
    size = found_at.stat().st_size
    found_at.replace(path)
    _discard(_sibling(path, ".part"))
    _save(path, {"url": archive.url, "size": size, "sha256": found, "unpacked": False})
    return path


def _is_complete(archive: Archive, root: Path) -> bool:
    path = root / archive.file
    record = _record(path)
    right = record.get("sha256") == (archive.sha256 or record.get("sha256", ""))
    if archive.unpacks:
        places = [root / place for place in archive.unpacks.values()]
        return right and record.get("unpacked") is True and all(map(Path.is_dir, places))
    return right and path.exists() and path.stat().st_size == record.get("size")


def _check_places(archive: Archive, root: Path) -> None:
    """Keeps folders that somebody else filled; those of an earlier run may be replaced."""
    for place in archive.unpacks.values():
        if (root / place).exists() and not _record(root / archive.file):
            raise UserError(
                f"{root / place} is there already, and not from --download, which would replace "
                "it. Move it away, or prepare what is there without --download."
            )


def _bytes_to_write(archive: Archive, root: Path) -> int:
    path = root / archive.file
    there = sum(p.stat().st_size for p in (path, _sibling(path, ".part")) if p.exists())
    size = archive.size or 0
    # Pictures are compressed already: unpacked, they are about as large as their archive.
    return max(0, size - there) + (size if archive.unpacks else 0)


def _unpack(archive: Archive, path: Path, root: Path, on_progress: Progress) -> None:
    unpack(
        path,
        root / f".unpacking-{path.name}",
        {inside: root / place for inside, place in archive.unpacks.items()},
        lambda done, total: on_progress(f"{path.name}: unpacking", done, total),
    )
    _save(path, _record(path) | {"unpacked": True})


def _download(archive: Archive, part: Path, on_progress: Progress, pause: float) -> None:
    """Attempts until the file is whole; gives up when several in a row brought nothing."""
    _require_secure(archive.url)
    failures, most = 0, _size(part)
    while True:
        try:
            return _attempt(archive, part, on_progress)
        except _BrokenTransfer as error:
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures == ATTEMPTS:
                raise UserError(
                    f"{archive.url}: cannot be fetched ({error}); {_size(part) / 1e6:.1f} MB are "
                    f"in {part}.\nRun again to go on, or put the file at "
                    f"{part.with_suffix('')} yourself."
                ) from None
        time.sleep(pause * 2 ** (failures - 1))


def _attempt(archive: Archive, part: Path, on_progress: Progress) -> None:
    record = _record(part)
    before = _Version(record.get("etag"), record.get("modified"), record.get("size"))
    have = _size(part) if record else 0
    if have and have == before.size:
        return
    with _opened(archive, have, part) as response:
        version, start = _offered(response)
        if response.status == _PARTIAL and (start, version) != (have, before):
            _discard(part)
            raise _BrokenTransfer("the file changed on the server")
        if archive.size is not None and version.size not in (None, archive.size):
            raise UserError(
                f"{archive.url}: not the file that was expected, it has {version.size} bytes "
                f"instead of {archive.size}."
            )
        if response.status != _PARTIAL:
            have = 0
            _discard(part)
            _save(part, asdict(version))
        require_space(part.parent, (version.size or 0) - have, part.stem)
        with part.open("ab") as stream:
            for chunk in _chunks(response):
                stream.write(chunk)
                have += len(chunk)
                on_progress(f"{part.stem}: downloading", have, version.size)
    if have != (version.size or have):
        raise _BrokenTransfer(f"it ended after {have} of {version.size} bytes")


@contextmanager
def _opened(archive: Archive, have: int, part: Path) -> Iterator[http.client.HTTPResponse]:
    headers = {"User-Agent": "usseg_ray"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _BEYOND_THE_END:
            _discard(part)
        elif error.code not in _WORTH_ANOTHER_TRY:
            raise UserError(
                f"{archive.url}: the server refuses it ({error.code} {error.reason}). "
                f"If it moved, fetch it by hand and put it at {part.with_suffix('')}."
            ) from None
        raise _BrokenTransfer(f"{error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenTransfer(str(getattr(error, "reason", error))) from None
    with response:
        yield response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to where anybody on the way could answer."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_secure(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_secure(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise UserError(f"{url}: refused, files are fetched over https only.")


def _offered(response: http.client.HTTPResponse) -> tuple[_Version, int]:
    """Reads which version of the file is sent, and from which byte on."""
    start, size = 0, response.headers["Content-Length"]
    if response.status == _PARTIAL:
        # "bytes 5-9/10"; a size that the server does not tell is a star.
        span, _, size = str(response.headers["Content-Range"]).removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        start = int(first) if first.isdigit() else -1
    known = int(size) if size is not None and size.isdigit() else None
    return _Version(response.headers["ETag"], response.headers["Last-Modified"], known), start


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenTransfer(str(error)) from None


def _sha256(path: Path, what: str, on_progress: Progress) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_progress(what, done, total)
    return digest.hexdigest()


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_sibling(path, ".json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _save(path: Path, record: Mapping[str, Any]) -> None:
    write_whole(_sibling(path, ".json"), json.dumps(record, indent=1) + "\n")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _sibling(part, ".json").unlink(missing_ok=True)
