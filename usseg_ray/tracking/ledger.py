"""The sweep's book in MLflow: a run for the sweep, each trial and each finalist; scores, pictures.

It stands at the end of the path, after `metrics`: Ray Tune's results reach the sweep's driver
process, and only that process writes here, so that SQLite has one writer and the workers need
neither the store's address nor its password. What is told to the ledger goes to a file in the
sweep's folder (`tracking.spool`) and from there, in a thread (`tracking.writer`), to the runs
(`tracking.runs`): a sweep that has begun neither waits for its store nor ends with it.
"""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from mlflow import MlflowClient

from usseg_ray.core.errors import HIDDEN, redacted
from usseg_ray.settings import FLOORS
from usseg_ray.tracking.heartbeat import reap
from usseg_ray.tracking.runs import Runs
from usseg_ray.tracking.spool import Operation, RecordKind, Spool
from usseg_ray.tracking.store import (
    PATIENCE,
    ROLE_TAG,
    SEED_TAG,
    TRIAL_TAG,
    address,
    alone,
    check_database,
    environment,
    experiment_id,
    explained,
    final_name,
    patience,
    share_view,
    store_uri,
)
from usseg_ray.tracking.writer import Say, Writer

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Params = Mapping[str, Any]
Tags = Mapping[str, str]

EXPERIMENT = "usseg_ray"
"""MLflow's name for what all sweeps are kept in."""
_FILES = ("*.yaml", "confusion.csv", "examples.npz", "images.npz")

_REQUEST_S = 20  # seconds that a store has for an answer once the sweep has begun
_LAST_WORDS_S, _LAST_WORDS_INTERRUPTED_S = 30, 8


class Ledger:
    """One sweep's runs in an MLflow store; a context manager that leaves no run RUNNING.

    Leaving the context closes the sweep as FINISHED, as FAILED after an exception, and as KILLED
    after Ctrl-C or `SystemExit`. Nothing here waits for the store but `open` and `close`.

    Attributes:
        uri: Absolute tracking URI in use, password included if it has one.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        experiment_id: str,
        sweep: str,
        folder: Path,
        say: Say = print,
        dataset: Tags | None = None,
    ) -> None:
        self.uri = uri
        self._sweep, self._dataset = sweep, dict(dataset or {})
        self._experiment_id = experiment_id
        self._folder = folder.absolute()
        self._say = say
        self._floors: dict[str, float] = {}
        self._beside: dict[str, str] = {}
        self._closed = False
        runs = Runs(client, experiment_id, sweep)
        self._writer = Writer(Spool(self._folder), runs, redacted(uri), say)
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(patience(_REQUEST_S))
        self._put("store", None, uri=redacted(uri))
        self._writer.start()

    @classmethod
    def open(
        cls,
        tracking_uri: str | None,
        experiment: str,
        sweep: str,
        *,
        params: Params,
        tags: Tags,
        folder: Path,
        say: Say = print,
        dataset: Tags | None = None,
    ) -> Self:
        """Opens the store and the sweep's parent run, the one it had before if it is resumed.

        What an earlier life of the sweep could not deliver is delivered first, and runs of other
        sweeps whose process has died are closed.

        Args:
            tracking_uri: MLflow store; else `MLFLOW_TRACKING_URI`, else SQLite in this folder.
            experiment: MLflow experiment, created if missing.
            sweep: Name of the sweep, unique in the store.
            params: Flat settings that all trials share.
            tags: Tags of the parent run, such as the data's digest; versions are added.
            folder: The sweep's folder, which keeps what the store has not taken yet.
            say: Takes a line for the user, from any thread, such as that the store is away.
            dataset: `name`, `digest` and `source` of the data, an input of every run.

        Returns:
            The ledger, its parent run RUNNING.

        Raises:
            UserError: The store does not answer within seconds, is not one that MLflow keeps, or is
                another than the one that records of an earlier life wait for.
        """
        uri = store_uri(tracking_uri)
        with contextlib.closing(Spool(folder)) as spool:
            spool.check_store(uri)
        client, found = _connect(uri, experiment)
        with explained(uri), patience(PATIENCE):
            reap(client, found, sweep)
            share_view(client, found, sweep)
        ledger = cls(client, uri, found, sweep, folder, say, dataset)
        ledger._open_run(None, params, environment() | dict(tags), {ROLE_TAG: "sweep"}, parent=None)
        return ledger

    def open_trial(self, trial: str, params: Params, tags: Tags) -> None:
        """Opens a trial's child run: a new one, or its own from an earlier life of the sweep.

        Args:
            trial: Name of the trial, unique in the sweep.
            params: Its flat config; what the run holds already is left as it is, and numbers that
                have changed since become metrics `changed.<key>`.
            tags: Its tags.
        """
        keys = {TRIAL_TAG: trial, ROLE_TAG: "trial"}
        self._open_run(trial, params, {**tags, **self._beside}, keys, parent=None)
        self.log(trial, self._floors, step=0, summary=True)

    def open_final(self, trial: str, seed: int, params: Params, tags: Tags) -> str:
        """Opens the run of a finalist trained with another seed, a child of its trial's run.

        Args:
            trial: Name of an opened trial.
            seed: The finalist's seed.
            params: Its flat config; treated as a trial's.
            tags: Its tags.

        Returns:
            The name by which the other functions know the run, `<trial>-seed<seed>`. Floors are
            not logged in it, since it is scored on another split than its trial.
        """
        name = final_name(trial, seed)
        keys = {TRIAL_TAG: trial, SEED_TAG: str(seed), ROLE_TAG: "seed"}
        self._open_run(name, params, tags, keys, parent=trial)
        return name

    def log(
        self,
        trial: str | None,
        metrics: Mapping[str, float],
        step: int,
        *,
        summary: bool = False,
    ) -> None:
        """Logs one step's metrics.

        A metric that the run already has at this step is skipped, so a resumed trial may report
        its steps again; NaN and infinite values are skipped and counted in a tag.

        Args:
            trial: Name of an opened trial or final; `None` for the sweep itself.
            metrics: Metric -> value.
            step: Epoch, or whatever orders the values.
            summary: Whether they sum up what a later life of the sweep may find otherwise: then
                those that differ from what the run has are logged anew.
        """
        values = {key: float(value) for key, value in metrics.items()}
        if values:
            self._put("log", trial, metrics=values, step=step, summary=summary)

    def log_baselines(self, floors: Mapping[str, float]) -> None:
        """Logs `baseline.<name>` on the sweep and on each of its trials, those to come included.

        The tag `usseg.beside` has all of them in one line, rounded: the highest floor first, which
        a narrow column still shows, and what is no floor from the lowest on.

        Args:
            floors: Baseline -> its unsupervised mIoU, percent.
        """
        self._floors = {f"baseline.{name}": float(value) for name, value in floors.items()}
        below = sorted((score, name) for name, score in floors.items() if name in FLOORS)
        above = sorted((score, name) for name, score in floors.items() if name not in FLOORS)
        ranked = [*reversed(below), *above]
        self._beside = {"usseg.beside": ", ".join(f"{name} {score:.1f}" for score, name in ranked)}
        self._put("floors", None, metrics=self._floors, tags=self._beside)

    def tag(self, tags: Tags, trial: str | None = None) -> None:
        """Tags a run with what is known only at its end.

        Args:
            tags: Tag -> text.
            trial: Name of an opened trial or final; `None` for the sweep itself.
        """
        self._put("tags", trial, tags=dict(tags))

    def attach(self, trial: str | None, folder: Path) -> None:
        """Uploads what a run folder has to show; a second call replaces the first's files.

        Args:
            trial: Name of an opened trial or final; `None` for the sweep itself.
            folder: Holds any of `pictures/*.png`, `*.png` (which go to a folder of the same name as
                this one), `confusion.csv`, `examples.npz`, `images.npz`,
                `*.yaml`, and `per_class.json`, a list with one object a class, which becomes a
                table. The files stay there: they are read when the store takes them.
        """
        folder = folder.absolute()
        files = [(str(path), "pictures") for path in sorted(folder.glob("pictures/*.png"))]
        files += [(str(path), folder.name) for path in sorted(folder.glob("*.png"))]
        others = sorted(path for name in _FILES for path in folder.glob(name))
        for file in [*files, *((str(path), None) for path in others)]:
            self._put("files", trial, files=[file])
        table = folder / "per_class.json"
        if table.exists():
            self._put("table", trial, path=str(table))

    def log_model(self, trial: str, model: Path, register: str | None = None) -> None:
        """Uploads a model of a run, and links it with the run's `test.` metrics and the data.

        Args:
            trial: Name of an opened trial or final.
            model: Folder as `tracking.model.save_mlflow_model` writes it; it stays there.
            register: Name in the model registry under which this becomes the `champion`.
        """
        path = str(model.absolute())
        self._put("model", trial, path=path, register=register, dataset=self._dataset)

    def close_trial(self, trial: str, status: RunStatus, reason: str | None = None) -> None:
        """Ends a trial's run.

        Args:
            trial: Name of an opened trial or final.
            status: KILLED is for trials that were stopped, early or by the user.
            reason: Why it did not finish, kept as a tag.
        """
        self._put("end", trial, status=status, reason=reason)

    def close(self, status: RunStatus, *, patience_s: float = _LAST_WORDS_S) -> None:
        """Ends the sweep's run, and as KILLED every trial still RUNNING; a second call is idle.

        Args:
            status: How the sweep ended.
            patience_s: Seconds to wait for a store that does not answer.
        """
        if self._closed:
            return
        self._closed = True
        self._put("close", None, status=status)
        left = self._writer.finish(patience_s)
        self._settings.close()
        if left:
            self._say(
                f"Tracking store {redacted(self.uri)} is away: {left} records wait in "
                f"{self._folder}.\nOnce it is back: python -m usseg_ray.report {self._folder}"
            )

    def dashboard(self) -> tuple[str, str]:
        """Says how to look at the sweep's experiment.

        Returns:
            The shell command that starts the dashboard, empty where a server already shows it,
            and the address of the experiment's trials, best unsupervised mIoU first.
        """
        return address(self.uri, self._experiment_id, self._sweep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close("FINISHED")
        else:
            status: RunStatus = "FAILED" if isinstance(error, Exception) else "KILLED"
            self.close(status, patience_s=_LAST_WORDS_INTERRUPTED_S)

    def _open_run(
        self, name: str | None, params: Params, tags: Tags, keys: Tags, parent: str | None
    ) -> None:
        data = {"params": dict(params), "tags": dict(tags), "keys": dict(keys), "parent": parent}
        self._put("open", name, dataset=self._dataset, **data)

    def _put(self, kind: RecordKind, run: str | None, **data: object) -> None:
        self._writer.put(Operation(kind, run, int(time.time() * 1000), data))


def deliver(tracking_uri: str | None, experiment: str, sweep: str, folder: Path, say: Say) -> None:
    """Takes to the store what a sweep that is over could not deliver.

    Args:
        tracking_uri: As the sweep's; where it has no password, the address that the sweep used is
            taken from its folder.
        experiment: MLflow experiment.
        sweep: Name of the sweep in the store.
        folder: The sweep's folder.
        say: Takes a line for the user.

    Raises:
        UserError: The store does not answer or is not the sweep's, or the sweep is still running.
    """
    with contextlib.closing(Spool(folder)) as spool:
        used = spool.address()
        uri = store_uri(tracking_uri) if HIDDEN in used or not used else used
        spool.check_store(uri)
        client, found = _connect(uri, experiment)
        with patience(_REQUEST_S):
            writer = Writer(spool, Runs(client, found, sweep), redacted(uri), say)
            writer.start()
            writer.finish(_LAST_WORDS_S)


def _connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Opens a store that answers within seconds, and finds or creates the experiment."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It prints a traceback for each request that is tried again.
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    with explained(uri), alone(uri):
        check_database(uri)
        client = MlflowClient(uri)
        with patience(PATIENCE):
            return client, experiment_id(client, experiment, uri)
