"""A hub of models on loopback, as far as its own client asks: repositories, commits, downloads."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_atest"


@dataclass
class Hub:
    """The server's state.

    Attributes:
        address: Scheme, host and port.
        repositories: Name -> path -> content.
        private: Name -> whether it is for its owner alone.
        missed: What was asked that the server does not know.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def sha(self, name: str) -> str:
        """Names the state of a repository as a commit is named."""
        files = self.repositories[name]
        known = [(path, hashlib.sha256(files[path]).hexdigest()) for path in sorted(files)]
        return hashlib.sha1(json.dumps(known).encode()).hexdigest()


@contextmanager
def opened() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._resolve(body=False)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.*|/tree/.*)?", path):
                self._about(found[1], tree=(found[2] or "").startswith("/tree"))
            else:
                self._resolve(body=True)

        def do_POST(self) -> None:
            content = self._body()
            path = urlsplit(self.path).path
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._json(401, {"error": "Invalid username or password."})
            elif path == "/api/validate-yaml":
                self._json(200, {"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                asked = json.loads(content)
                name = f"{asked.get('organization', 'me')}/{asked['name']}"
                there = name in hub.repositories
                hub.repositories.setdefault(name, {})
                hub.private.setdefault(name, asked.get("visibility") == "private")
                self._json(409 if there else 200, {"url": f"{hub.address}/{name}"})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
                self._write(found[1], found[2], content)
            else:
                self._unknown()

        def _write(self, name: str, what: str, content: bytes) -> None:
            if what == "preupload":
                paths = [file["path"] for file in json.loads(content)["files"]]
                modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self._json(200, {"files": [{"path": path, **modes} for path in paths]})
                return
            for line in map(json.loads, content.decode().splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            url = f"{hub.address}/{name}/commit/{hub.sha(name)}"
            self._json(200, {"success": True, "commitOid": hub.sha(name), "commitUrl": url})

        def _about(self, name: str, *, tree: bool) -> None:
            if name not in hub.repositories:
                self._json(404, {"error": "Repository not found"}, RepoNotFound=True)
                return
            files = hub.repositories[name]
            if tree:
                entries = [
                    {"type": "file", "path": path, "size": len(content), "oid": str(number)}
                    for number, (path, content) in enumerate(files.items())
                ]
                self._json(200, entries)
                return
            siblings = [{"rfilename": path} for path in files]
            self._json(200, {"id": name, "sha": hub.sha(name), "siblings": siblings})

        def _resolve(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            content = hub.repositories.get(found[1], {}).get(found[3]) if found else None
            if found is None or content is None:
                self._unknown()
                return
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.sha(found[1]))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _json(self, status: int, value: Any, **headers: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if "RepoNotFound" in headers:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(content)

        def _unknown(self) -> None:
            hub.missed.append(f"{self.command} {self.path}")
            self._json(404, {"error": "not found"})

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
