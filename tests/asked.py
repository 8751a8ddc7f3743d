"""A server on loopback that answers one thing, to those who show what it wants to see."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def answering(
    *,
    hosts: tuple[str, ...] = (),
    authorization: str | None = None,
    date: str | None = None,
    body: bytes = b"{}",
) -> Iterator[str]:
    """Runs a server on a free port.

    Args:
        hosts: Host names that it answers under, with any port; all if there are none.
        authorization: Header that it asks for; 401 without one, 403 with another.
        date: What it says the time is.
        body: What it answers.

    Yields:
        Its address.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self._status())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _status(self) -> int:
            if hosts and self.headers["Host"].partition(":")[0] not in hosts:
                return 403
            shown = self.headers["Authorization"]
            if authorization is None or shown == authorization:
                return 200
            return 401 if shown is None else 403

        def date_time_string(self, timestamp: float | None = None) -> str:
            return date or super().date_time_string(timestamp)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
