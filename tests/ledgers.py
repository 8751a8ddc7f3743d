"""What the tests of the ledger share: a sweep's name, its ledger, and what its store has."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from tests.conftest import PROJECT
from usseg_ray.pictures.mosaic import save
from usseg_ray.tracking.ledger import Ledger
from usseg_ray.tracking.store import run_key

SWEEP = "acseg-on-synthetic"
# Each of these alone turns a telemetry off, and would hide that the package does not.
TELEMETRY_SETTINGS = (
    "CI",
    "GITHUB_ACTIONS",
    "PYTEST_CURRENT_TEST",
    "DO_NOT_TRACK",
    "MLFLOW_DISABLE_TELEMETRY",
    "RAY_USAGE_STATS_ENABLED",
)


def opened(
    uri: str | None = None, sweep: str = SWEEP, say: Callable[[str], None] = print, **params: Any
) -> Ledger:
    tags = {"usseg.data_digest": "abc"}
    folder = Path("runs", sweep)
    data = {"name": "scenes", "digest": "abc", "source": "s3://me:pw@host/scenes"}
    return Ledger.open(
        uri, "usseg", sweep, params=params, tags=tags, folder=folder, say=say, dataset=data
    )


@cache
def _tables() -> bytes:
    """An empty store as MLflow makes it, which takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def lay_store(path: Path) -> None:
    """Lays an empty store down, for tests that do not look at how one is made."""
    path.write_bytes(_tables())


def runs(folder: Path, uri: str | None = None, sweep: str | None = None) -> dict[str, Run]:
    client = MlflowClient(uri or f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("usseg")
    assert experiment is not None
    which = f"tags.`usseg.sweep` = '{sweep}'" if sweep else ""
    found = client.search_runs([experiment.experiment_id], which)
    names = [run_key(run.data.tags) or str(run.info.run_name) for run in found]
    assert len(names) == len(set(names)), f"a run appears twice: {names}"
    return dict(zip(names, found, strict=True))


def statuses(folder: Path) -> dict[str, str]:
    return {name: run.info.status for name, run in runs(folder).items()}


def in_fresh_interpreter(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in os.environ if name not in TELEMETRY_SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"PYTHONPATH": str(PROJECT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def trial_folder(at: Path) -> Path:
    save(Image.new("RGB", (4, 4), "red"), at / "pictures" / "mosaic.png")
    (at / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    (at / "confusion.csv").write_text("1,0\n0,1\n", encoding="utf-8")
    (at / "examples.npz").write_bytes(b"arrays")
    (at / "checkpoint.pt").write_bytes(b"stays where it is")
    rows = [{"class": "sky", "iou": 91.0}, {"class": "road", "iou": 80.0}]
    (at / "per_class.json").write_text(json.dumps(rows), encoding="utf-8")
    return at


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def eventually(holds: Callable[[], bool], within_s: float = 60) -> None:
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)


@contextlib.contextmanager
def serving(folder: Path, port: int) -> Iterator[str]:
    """A real tracking server that keeps artifacts itself."""
    program = [sys.executable, "-m", "mlflow", "server", "--workers", "1", f"--port={port}"]
    options = ["--backend-store-uri=sqlite:///server.db", "--artifacts-destination=kept"]
    if not (folder / "server.db").exists():
        lay_store(folder / "server.db")
    log = folder / "server.log"
    # Its eight processes for jobs of its own, which are not asked for here, take half a minute.
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("w") as out:
        process = subprocess.Popen(
            program + options, stdout=out, stderr=out, start_new_session=True, cwd=folder, env=quiet
        )
    try:
        deadline = time.monotonic() + 240
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        address = f"http://127.0.0.1:{port}"
        MlflowClient(address).search_experiments()  # the first answer takes its time
        yield address
    finally:
        # Not SIGTERM: it would wait for the connections that this process keeps.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


class Line:
    """A line to a port of this machine, which can be cut and mended."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._ends: list[socket.socket] = []
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.mend()

    def mend(self) -> None:
        listening = socket.create_server(("127.0.0.1", self._port))
        self._ends = [listening]
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def cut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no store named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """An empty store in the working directory."""
    lay_store(folder / "mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one real tracking server."""
    with serving(tmp_path_factory.mktemp("server"), free_port()) as address:
        yield address
