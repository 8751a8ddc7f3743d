"""A publisher on loopback: a real HTTP server whose files can break, change and vanish."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from usseg_ray.prepare.sets.download import Archive


@dataclass
class Served:
    """A file on the server.

    Attributes:
        content: What it is.
        etag: Its version.
        ranges: Whether parts of it can be asked for.
        cuts: How many bytes of the body each request gets before the line breaks; once they are
            used up, all of it.
        status: Sent instead of the file, if not 200.
        location: Where to go instead, with a status of 302.
        sized: Whether its size is told.
    """

    content: bytes
    etag: str = '"1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: int = 200
    location: str = ""
    sized: bool = True


@dataclass
class Publisher:
    """The server, and what was asked of it.

    Attributes:
        address: Scheme, host and port.
        files: Path -> file.
        requests: Path and range of every request.
        sent: Bytes of bodies in all.
    """

    address: str = ""
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class _Handler(BaseHTTPRequestHandler):
    publisher: Publisher

    def do_GET(self) -> None:
        name, asked = self.path.removeprefix("/"), self.headers["Range"]
        self.publisher.requests.append((name, asked))
        served = self.publisher.files.get(name)
        if served is None or served.status != 200:
            self.send_response(404 if served is None else served.status)
            if served and served.location:
                self.send_header("Location", served.location)
            self.end_headers()
            return
        self._send(served, int(asked[len("bytes=") : -1]) if asked and served.ranges else 0)

    def _send(self, served: Served, start: int) -> None:
        size = len(served.content)
        if start >= size > 0:
            self.send_response(416)
            self.end_headers()
            return
        body = served.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if served.sized:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", served.etag)
        self.end_headers()
        if served.cuts:
            body = body[: served.cuts.pop(0)]
        # Whoever asked may have seen enough in the headers.
        with suppress(ConnectionError):
            self.wfile.write(body)
            self.publisher.sent += len(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def publishing() -> Iterator[Publisher]:
    """Runs a server with no files on a free port."""
    publisher = Publisher()
    handler = type("Handler", (_Handler,), {"publisher": publisher})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        publisher.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield publisher
        server.shutdown()
        thread.join()


def archived(root: Path, folder: str) -> bytes:
    """Packs a folder below `root` as a tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        packed.add(root / folder, folder)
    return stream.getvalue()


def serve(publisher: Publisher, official: Archive, content: bytes) -> Archive:
    """Has a server offer other content in the place of a published archive."""
    publisher.files[official.file] = Served(content)
    return replace(
        official,
        url=publisher.url(official.file),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


MEMBERS = {"maps/train/a.png": b"a", "maps/train/b.png": b"bb", "maps/val/c.png": b"ccc", "x": b"x"}


def files_of(folder: Path) -> list[str]:
    """Lists the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def zipped(members: dict[str, bytes]) -> bytes:
    """Packs files as a zip file, under whatever names they have."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def tarred(members: dict[str, bytes], *special: tarfile.TarInfo, mode: str = "w") -> bytes:
    """Packs files, and members of other kinds, as a tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            packed.addfile(about, io.BytesIO(content))
        for about in special:
            packed.addfile(about)
    return stream.getvalue()


def packed(publisher: Publisher, file: str, content: bytes, **unpacks: str) -> Archive:
    """Has a server offer an archive; `unpacks` says which folder goes where."""
    publisher.files[file] = Served(content)
    return Archive(
        publisher.url(file), file, hashlib.sha256(content).hexdigest(), len(content), unpacks
    )
