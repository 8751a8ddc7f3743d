"""A tiny sweep that something happens to: begun and gone on with by the command that users run."""

import atexit
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil

from tests import tiny
from tests.integration.nodes import nodes
from tests.ledgers import lay_store
from usseg_ray.core import cli
from usseg_ray.core.files import write_whole
from usseg_ray.engine.run import Run  # noqa: F401 (here once, for all commands that are forked)
from usseg_ray.sweeps.launch import launch  # noqa: F401 (the same)
from usseg_ray.sweeps.request import Request
from usseg_ray.sweeps.sweep import run_sweep  # noqa: F401 (the same)
from usseg_ray.tune import app

NAME = "sweep"
SETTINGS: dict[str, Any] = {
    **{
        key: value
        for key, value in (tiny.SETTINGS | tiny.ACSEG).items()
        if key not in ("data.name", "method.lr")
    },
    "train.epochs": 3,
    "train.steps_per_epoch": 20,
    "resources.features": "recompute",
    "resources.cpus_per_worker": 0.5,
    "resources.data_cpus_per_worker": 0.25,
}
FINISHED = ("trial_000", "trial_001")
LIMIT_S = 300.0
"""What ends later than this counts as hung."""

Moment = Callable[["Sweep"], bool]
MOMENTS: dict[str, Moment] = {
    "begun": lambda sweep: (sweep.folder / ".lock").exists(),
    "an epoch of the first trial": lambda sweep: sweep.epoch("trial_000") >= 1,
    "two of it": lambda sweep: sweep.epoch("trial_000") >= 2,
    "an epoch of the second trial": lambda sweep: sweep.epoch("trial_001") >= 1,
    "all of it": lambda sweep: sweep.epoch("trial_001") >= 3,
    "final scores": lambda sweep: (sweep.folder / "finalists").exists(),
}
ANY = tuple(MOMENTS)
RANKS = "a worker group"
MOMENTS[RANKS] = lambda _: bool(named("RayTrainWorker"))


def named(what: str) -> list[psutil.Process]:
    """Lists the processes that Ray named after what they run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"ray::{what}" in " ".join(process.cmdline()):
                found.append(process)
    return found


class HungError(AssertionError):
    """Something took longer than it may."""


def until(holds: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> float:
    """Waits, and returns for how many seconds."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > limit_s:
            raise HungError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - begun


class Life:
    """One run of the command, forked from this process, which has imported all."""

    def __init__(
        self, sweep: "Sweep", environment: dict[str, str], before: Callable[[], object]
    ) -> None:
        self._log = sweep.root / "log"
        self._log.touch()
        self._from = self._log.stat().st_size
        self._process = multiprocessing.get_context("fork").Process(
            target=_command, args=(sweep.root, self._log, environment, before)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self) -> bool:
        return self._process.exitcode is not None

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Waits for the end, and returns the exit status."""
        try:
            until(self.ended, f"the end of the command; it said {self.said()[-300:]!r}", limit_s)
        except HungError:
            self.send(signal.SIGKILL)
            raise
        assert self._process.exitcode is not None
        return self._process.exitcode

    def said(self) -> str:
        return self._log.read_bytes()[self._from :].decode(errors="replace")


def _command(
    root: Path, log: Path, environment: dict[str, str], before: Callable[[], object]
) -> None:
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    cli.console.file, cli.errors.file = sys.stdout, sys.stderr
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before()
    sys.argv = ["tune", "--resume", NAME]
    try:
        cli.run(app)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


class Sweep:
    """Two trials and the final score of the better one, in a folder of its own.

    Args:
        root: An empty folder.
        environment: Of every life, over this process's own.
        workers: Of a trial; 0 for its own process.
        asked: Changes of the request.
    """

    def __init__(
        self, root: Path, environment: dict[str, str] | None = None, workers: int = 0, **asked: Any
    ) -> None:
        self.root: Path = root
        self.folder: Path = root / "runs" / NAME
        self.store, self.workers = root / "mlflow.db", workers
        self._environment = {**os.environ, "USSEG_FEATURES": str(root / "features")}
        self._environment |= environment or {}
        tiny.write(root / "data", splits=asked.pop("splits", tiny.SPLITS))
        lay_store(self.store)
        space = root / "space.yaml"
        space.write_text("space:\n  method.gamma: {uniform: [0.5, 2.0]}\n")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "baselines.json", "{}")
        options: dict[str, Any] = {
            "methods": {"acseg": str(space)},
            "data": str(root / "data"),
            "assigned": SETTINGS
            # A group takes seconds to start, and its steps less than that.
            | ({"train.steps_per_epoch": 200} if workers else {})
            | {"resources.num_workers": workers}
            | asked.pop("assigned", {}),
            "calibrate": "off",
            # Groups start slowly.
            "num_samples": 1 if workers else 2,
            "max_concurrent": 1,
            "finalists": 1,
            "seeds": 1,
            "tracking_uri": f"sqlite:///{self.store}",
            "key": NAME,
        }
        Request(**(options | asked)).save(self.folder)

    def begin(self, before: Callable[[], object] = bool) -> Life:
        """Begins it, or goes on with it; `before` is called in the process of the command."""
        return Life(self, self._environment, before)

    def epoch(self, trial: str) -> int:
        return int(self.record(trial).get("metrics", {}).get("epoch", 0))

    def record(self, trial: str) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            found = dict(json.loads((self.folder / trial / "trial.json").read_text()))
            return {name: value for name, value in found.items() if name != "sha256"}
        return {}

    def finished(self) -> dict[str, dict[str, Any]]:
        """Reads the records of the trials that have ended; how alike they are is known last."""
        records = {trial: self.record(trial) for trial in FINISHED}
        ended = {name: one for name, one in records.items() if one.get("status") == "FINISHED"}
        for record in ended.values():
            record["metrics"].pop("label_free.consensus", None)
        return ended

    def progress(self) -> tuple[int, bool]:
        """Counts the epochs that are kept, and tells whether the final scores are."""
        kept = sum(self.epoch(trial) for trial in FINISHED)
        return kept, (self.folder / "final.json").exists()

    def scores(self) -> dict[str, Any]:
        """Reads what the sweep found: every score of all trials, and the final ones."""
        found: dict[str, Any] = {
            trial: {k: v for k, v in record["metrics"].items() if "second" not in k}
            for trial, record in self.finished().items()
        }
        with suppress(FileNotFoundError):
            found["final"] = json.loads((self.folder / "final.json").read_text())
        return found

    def wait(self, life: Life, random: Random, moments: Sequence[str] = ANY) -> None:
        """Waits for a moment that is drawn, and a little more, unless the command ends before."""
        moment = random.choice(moments)
        reached = MOMENTS[moment]
        until(lambda: reached(self) or life.ended(), moment)
        later = time.monotonic() + random.uniform(0, 1.5)
        while time.monotonic() < later and not life.ended():
            time.sleep(0.01)

    def go_on(self, faults_s: float) -> float:
        """Goes on to the end; returns the seconds from the fault to the next that was achieved."""
        before = self.progress()
        life = self.begin()
        until(lambda: self.progress() > before or life.ended(), "something new")
        recovery = time.monotonic() - faults_s
        code = life.end()
        assert code == 0, f"--resume ended with {code}: {life.said()[-500:]}"
        return recovery


@contextmanager
def shared_ray() -> Iterator[None]:
    """A Ray that outlives the commands, which join it: they start sooner."""
    with nodes(1, cpus=4) as cluster:
        kept = dict(os.environ)
        os.environ.update(cluster.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(kept)
