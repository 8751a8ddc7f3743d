"""A tracking server that is away, slow, wrong, stopped or killed while a sweep is noted in it."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from threading import Thread

import psutil
from mlflow import MlflowClient

from tests.faults.checks import TWICE
from tests.faults.matrix import Found, fault
from tests.ledgers import free_port, serving
from usseg_ray.tracking.ledger import Ledger

POINTS, TRIALS = 40, ("trial_000", "trial_001")


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

    def start(self) -> None:
        self._running.enter_context(serving(self.folder, self.port))

    def kill(self) -> None:
        self._running.close()
        for left in Path("/dev/shm").glob("tmp*"):  # MLflow's server's own
            left.unlink()

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


@contextmanager
def noted(root: Path, key: str, said: list[str]) -> Iterator[Ledger]:
    opened = Ledger.open(
        _SERVERS[-1].uri, "usseg_ray", key, params={}, tags={}, folder=root / key, say=said.append
    )
    with opened as ledger:
        yield ledger


def through(random: Random, root: Path, happen: Callable[[Server], object]) -> Found:
    """Notes two trials while something happens to their store, then looks for every point."""
    store, said, key = _SERVERS[-1], list[str](), root.name
    happens_at = random.randrange(2 * POINTS)
    with noted(root, key, said) as ledger:
        for trial in TRIALS:
            ledger.open_trial(trial, {"seed": 0}, {})
            for step in range(POINTS):
                if TRIALS.index(trial) * POINTS + step == happens_at:
                    thread = Thread(target=happen, args=(store,))
                    thread.start()
                begun = time.monotonic()
                ledger.log(trial, {"unsup_miou": float(step)}, step)
                assert time.monotonic() - begun < 1, "the sweep waits for its store"
                time.sleep(random.uniform(0, 0.04))
            ledger.close_trial(trial, "FINISHED")
        thread.join()
        now = time.monotonic()
    seconds = time.monotonic() - now
    assert not list((root / key).iterdir()), f"records are left: {said}"
    return Found(*of_all_points(store, key), seconds)


def of_all_points(store: Server, key: str) -> tuple[list[str], list[str]]:
    """Names the points that the store lacks, and what it has twice."""
    client = MlflowClient(f"http://127.0.0.1:{store.port}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "usseg_ray"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`usseg.sweep` = '{key}'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    lost = []
    for run in runs:
        if (trial := run.data.tags.get("usseg.trial")) is not None:
            points = client.get_metric_history(run.info.run_id, "unsup_miou")
            steps = {int(point.step) for point in points if point.value == point.step}
            lost += [f"{trial} {step}" for step in set(range(POINTS)) - steps]
    kept = {run.data.tags.get("usseg.trial") for run in runs}
    lost += [trial for trial in TRIALS if trial not in kept]
    with closing(sqlite3.connect(store.folder / "server.db")) as found:
        of_sweep = "SELECT run_uuid FROM tags WHERE key = 'usseg.sweep' AND value = ?"
        query = TWICE.replace("FROM metrics", f"FROM metrics WHERE run_uuid IN ({of_sweep})")
        query = query.replace("'usseg.trial'", f"'usseg.trial' AND t.run_uuid IN ({of_sweep})")
        return lost, [name for (name,) in found.execute(query, (key, key))]


def for_a_while(mode: str, seconds: float) -> Callable[[Server], None]:
    def happen(store: Server) -> None:
        store.mode = mode
        try:
            time.sleep(seconds)
        finally:
            store.mode = "well"

    return happen


@fault("store-away", "the tracking server takes no request (3 to 20 s in place of minutes: the "
       "writer's pauses are 5 s at most)", within=one_server)  # fmt: skip
def store_away(random: Random, root: Path) -> Found:
    return through(random, root, for_a_while("away", random.uniform(3, 20)))


@fault("store-slow", "it takes 5 s for every answer, for 10 to 20 s", within=one_server)
def store_slow(random: Random, root: Path) -> Found:
    return through(random, root, for_a_while("slow", random.uniform(10, 20)))


@fault("store-errors", "it answers every request with 500, for 1 to 15 s", within=one_server)
def store_errors(random: Random, root: Path) -> Found:
    return through(random, root, for_a_while("500", random.uniform(1, 15)))


@fault(
    "store-deaf", "it does what it is asked and does not answer, for 1 to 6 s", within=one_server
)
def store_deaf(random: Random, root: Path) -> Found:
    return through(random, root, for_a_while("deaf", random.uniform(1, 6)))


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
