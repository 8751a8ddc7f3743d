"""The ledger on a real PostgreSQL, which dies and comes back in mid-sweep.

Debian's `apt-get install postgresql` brings the server, the extra `postgres` its driver.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.ledgers import eventually, free_port, opened, runs, trial_folder

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server on this machine"),
    pytest.mark.skipif(not importlib.util.find_spec("psycopg"), reason="no psycopg"),
    # MLflow's own engine, when its connection is gone.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PASSWORD = "planted-hunter2"


class Postgres:
    """A database server in a folder of its own, owned by a user other than root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._as_user = ["runuser", "-u", "postgres", "--"]
        self._run("initdb", "-U", "anna", "--auth=trust", "--no-sync")
        self.uri = f"postgresql+psycopg://anna:{PASSWORD}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def crash(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")

    def create(self, database: str) -> None:
        where = ["-h", "127.0.0.1", "-p", str(self._port), "-U", "anna"]
        subprocess.run([PROGRAMS[-1].with_name("createdb"), *where, database], check=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(PROGRAMS[-1].with_name(program)), "-D", str(self._folder / "data")]
        subprocess.run(
            [*self._as_user, *command, *arguments],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="usseg-postgres-"))
    database = Postgres(folder)
    database.start()
    yield database
    with contextlib.suppress(subprocess.CalledProcessError):
        database.crash()
    shutil.rmtree(folder)


def sweep_through_a_crash(uri: str, postgres: Postgres, folder: Path) -> list[str]:
    """Logs before, during and after a crash of the database, and returns what was said."""
    said: list[str] = []
    with opened(uri, say=said.append) as ledger:
        ledger.log_baselines({"position": 20.0})
        ledger.open_trial("t", {"seed": 0}, {})
        ledger.log("t", {"unsup_miou": 0.0}, step=0)
        eventually(lambda: "t" in runs(folder, uri))
        postgres.crash()
        start = time.monotonic()
        for epoch in range(1, 100):
            ledger.log("t", {"unsup_miou": float(epoch)}, step=epoch)
        name = ledger.open_final("t", 1, {"seed": 1}, {})
        ledger.attach("t", trial_folder(folder / "trial"))
        assert time.monotonic() - start < 5
        eventually(lambda: bool(said))
        postgres.start()
        ledger.log("t", {"unsup_miou": 100.0}, step=100)
        ledger.close_trial(name, "FINISHED")
        ledger.close_trial("t", "FINISHED")
    found = runs(folder, uri)
    assert {name: run.info.status for name, run in found.items()} == dict.fromkeys(
        ("acseg-on-synthetic", "t", "t-seed1"), "FINISHED"
    )
    client = MlflowClient(uri)
    history = client.get_metric_history(found["t"].info.run_id, "unsup_miou")
    assert [(p.step, p.value) for p in history] == [(n, float(n)) for n in range(101)]
    assert found["t"].data.metrics["baseline.position"] == 20.0
    return said


def test_a_database_may_crash_behind_the_sweep(folder: Path, postgres: Postgres) -> None:
    said = sweep_through_a_crash(postgres.uri, postgres, folder)
    assert any("does not answer" in line for line in said)
    assert PASSWORD not in "".join(said)
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in left if PASSWORD.encode() in path.read_bytes()]
