"""A tracking server that is away, slow, wrong, stopped or killed while a sweep is noted in it."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from threading import Thread

import psutil
from mlflow.exceptions import MlflowException

from tests.faults.checks import OPEN, OTHER_FILES, asked, twice
from tests.faults.matrix import Attempt, Found, fault
from tests.ledgers import free_port, serving
from usseg_ray.tracking.ledger import Ledger

POINTS, TRIALS = 40, ("trial_000", "trial_001")
KEPT = """
SELECT t.value || ' ' || m.step FROM metrics m
JOIN tags s ON s.run_uuid = m.run_uuid AND s.key = 'usseg.sweep'
JOIN tags t ON t.run_uuid = m.run_uuid AND t.key = 'usseg.trial'
WHERE s.value = ? AND m.key = 'unsup_miou' AND m.value = m.step
"""


class Server:
    """A real tracking server, and a line to it that behaves as told.

    Attributes:
        mode: `well`, `slow` (5 s an answer), `500` (says so and does nothing), `deaf` (does what it
            is asked and does not answer) or `away` (takes no request).
    """

    def __init__(self) -> None:
        self.folder, self.port, self.mode = Path(mkdtemp(prefix="server")), free_port(), "well"
        self._running = ExitStack()
        self.start()
        line = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        line.daemon_threads = True
        Thread(target=line.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{line.server_address[1]}"

    @property
    def database(self) -> Path:
        return self.folder / "server.db"

    def start(self) -> None:
        try:
            self._running.enter_context(serving(self.folder, self.port))
        except MlflowException:  # on a busy machine its first answer may come too late for a sweep
            self._running.enter_context(serving(self.folder, self.port))
        OTHER_FILES.update(Path("/dev/shm").glob("tmp*"))

    def kill(self) -> None:
        self._running.close()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def send(self, number: int) -> None:
        """Sends a signal to the server and its workers, which are a group of processes."""
        for group in _groups(self.port):
            os.killpg(group, number)


def _groups(port: int) -> set[int]:
    servers = psutil.process_iter(["cmdline"])
    return {
        os.getpgid(one.pid) for one in servers if f"--port={port}" in (one.info["cmdline"] or ())
    }


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Line(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def carry(self) -> None:
            mode = server.mode
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.close_connection = True
            if mode != "away":
                with suppress(OSError, HTTPException):  # the server is gone, or who asked is
                    self._answer(mode, body)
                    self.close_connection = mode == "deaf"

        def _answer(self, mode: str, body: bytes) -> None:
            if mode == "slow":
                time.sleep(5)
            status, content = 500, b"a fault"
            if mode != "500":
                there = HTTPConnection("127.0.0.1", server.port, timeout=60)
                there.request(self.command, self.path, body, dict(self.headers))
                answer = there.getresponse()
                status, content = answer.status, answer.read()
            if mode != "deaf":
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = carry  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Says nothing."""

    return Line


_SERVERS: list[Server] = []


@contextmanager
def one_server() -> Iterator[None]:
    """One server for all tries: to start it takes seconds."""
    _SERVERS.append(Server())
    try:
        yield
    finally:
        _SERVERS.pop().close()


def through(random: Random, root: Path, happen: Callable[[Server], object]) -> Found:
    """Notes two trials while something happens to their store, then looks for every point."""
    store, said, key = _SERVERS[-1], list[str](), root.name
    happens_at = random.randrange(2 * POINTS)
    opened = Ledger.open(
        store.uri, "usseg_ray", key, params={}, tags={}, folder=root / key, say=said.append
    )
    with ThreadPoolExecutor(1) as aside, opened as ledger:
        for trial in TRIALS:
            ledger.open_trial(trial, {"seed": 0}, {})
            for step in range(POINTS):
                if TRIALS.index(trial) * POINTS + step == happens_at:
                    happening = aside.submit(happen, store)
                begun = time.monotonic()
                ledger.log(trial, {"unsup_miou": float(step)}, step)
                assert time.monotonic() - begun < 1, "the sweep waits for its store"
                time.sleep(random.uniform(0, 0.04))
            ledger.close_trial(trial, "FINISHED")
        happening.result()
        now = time.monotonic()
    seconds = time.monotonic() - now
    assert not list((root / key).iterdir()), f"records are left: {said}"
    kept = set(asked(store.database, KEPT, key))
    lost = {f"{trial} {step}" for trial in TRIALS for step in range(POINTS)} - kept
    assert not (running := asked(store.database, OPEN)), f"still running in the store: {running}"
    return Found(sorted(lost), twice(store.database), seconds)


def for_a_while(mode: str, seconds: tuple[float, float]) -> Attempt:
    """Makes a fault of a way in which a server answers for some time."""

    def attempt(random: Random, root: Path) -> Found:
        def happen(store: Server) -> None:
            store.mode = mode
            time.sleep(random.uniform(*seconds))
            store.mode = "well"

        return through(random, root, happen)

    return attempt


for name, mode, seconds, what in (
    ("store-away", "away", (3, 20), "the tracking server takes no request, for 3 to 20 s in place "
     "of minutes: pauses between tries are 5 s at most"),
    ("store-slow", "slow", (10, 20), "it takes 5 s for every answer, for 10 to 20 s"),
    ("store-errors", "500", (1, 15), "it answers every request with 500, for 1 to 15 s"),
    ("store-deaf", "deaf", (1, 6), "it does what it is asked and does not answer, for 1 to 6 s"),
):  # fmt: skip
    fault(name, what, within=one_server)(for_a_while(mode, seconds))


@fault("store-killed", "SIGKILL of the tracking server, and its start again", within=one_server)
def store_killed(random: Random, root: Path) -> Found:
    def happen(store: Server) -> None:
        store.kill()
        time.sleep(random.uniform(0, 5))
        store.start()

    return through(random, root, happen)


@fault("store-stopped", "SIGSTOP of the tracking server for 1 to 20 s", within=one_server)
def store_stopped(random: Random, root: Path) -> Found:
    def happen(store: Server) -> None:
        store.send(signal.SIGSTOP)
        time.sleep(random.uniform(1, 20))
        store.send(signal.SIGCONT)

    return through(random, root, happen)
