"""The sweep's book in MLflow: one parent run, one child run a trial, every score and picture.

It stands at the end of the path, after `metrics`: Ray Tune's results reach the sweep's driver
process, and only that process writes here, so that SQLite has one writer and the workers need
neither the store's address nor its password. Runs are found again by tags and addressed by id
(MLflow's "active run" is one per process, and belongs to whoever called last), so a resumed sweep
goes on in the runs that it began.
"""

import json
import logging
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from usseg_ray.tracking_environment import environment
from usseg_ray.tracking_store import (
    check_database,
    experiment_id,
    explained,
    short_patience,
    store_uri,
    without_password,
)

Status = Literal["FINISHED", "FAILED", "KILLED"]
Params = Mapping[str, Any]
Tags = Mapping[str, str]

_SWEEP_TAG, _TRIAL_TAG, _SEED_TAG = "usseg.sweep", "usseg.trial", "usseg.seed"
_REASON_TAG, _NONFINITE_TAG = "usseg.reason", "usseg.nonfinite_values"
_FILES = ("*.yaml", "confusion.csv", "examples.npz", "images.npz")
_BEST_FIRST = "orderByKey=metrics.%60unsup_miou%60&orderByAsc=false"


@dataclass
class _History:
    """What a run holds already: logged (metric, step) pairs, and values refused as non-finite."""

    logged: set[tuple[str, int]]
    num_nonfinite: int


class Ledger:
    """One sweep's runs in an MLflow store; a context manager that leaves no run RUNNING.

    Leaving the context closes the sweep as FINISHED, as FAILED after an exception, and as KILLED
    after Ctrl-C or `SystemExit`.

    Attributes:
        uri: Absolute tracking URI in use, password included if it has one; with it a resumed
            sweep finds its store again.
    """

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str, sweep: str) -> None:
        self.uri = uri
        self._client = client
        self._experiment_id = experiment_id
        self._sweep = sweep
        self._floors: dict[str, float] = {}
        self._histories: dict[str, _History] = {}
        self._closed = False
        found = [(run.info.run_id, run.data.tags) for run in self._search()]
        self._run_ids: dict[str | None, str] = {_name_of(tags): run for run, tags in found}
        self._finals = {_name_of(tags) for _, tags in found if _SEED_TAG in tags}

    @classmethod
    def open(
        cls, tracking_uri: str | None, experiment: str, sweep: str, *, params: Params, tags: Tags
    ) -> Self:
        """Opens the store and the sweep's parent run, the one it had before if it is resumed.

        Args:
            tracking_uri: MLflow store; else `MLFLOW_TRACKING_URI`, else SQLite in this folder.
            experiment: MLflow experiment, created if missing.
            sweep: Name of the sweep, unique in the store.
            params: Flat settings that all trials share.
            tags: Tags of the parent run, such as the data's digest; versions are added.

        Returns:
            The ledger, its parent run RUNNING.

        Raises:
            UserError: The store does not answer within seconds, or is not one that MLflow keeps.
        """
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        uri = store_uri(tracking_uri)
        with explained(uri):
            check_database(uri)
            client = MlflowClient(uri)
            with short_patience():
                found = experiment_id(client, experiment, uri)
            ledger = cls(client, uri, found, sweep)
            ledger._open_run(None, params, environment() | dict(tags), {}, parent=None)
        return ledger

    def open_trial(self, trial: str, params: Params, tags: Tags) -> None:
        """Opens a trial's child run: a new one, or its own from an earlier life of the sweep.

        Args:
            trial: Name of the trial, unique in the sweep.
            params: Its flat config; what the run holds already is left as it is.
            tags: Its tags.
        """
        self._open_run(trial, params, tags, {_TRIAL_TAG: trial}, parent=None)
        self.log(trial, self._floors, step=0)

    def open_final(self, trial: str, seed: int, params: Params, tags: Tags) -> str:
        """Opens the run of a finalist trained with another seed, a child of its trial's run.

        Args:
            trial: Name of an opened trial.
            seed: The finalist's seed.
            params: Its flat config; what the run holds already is left as it is.
            tags: Its tags.

        Returns:
            The name by which the other functions know the run, `<trial>-seed<seed>`. Floors are
            not logged in it, since it is scored on another split than its trial.
        """
        keys = {_TRIAL_TAG: trial, _SEED_TAG: str(seed)}
        name = final_name(trial, seed)
        self._finals.add(name)
        self._open_run(name, params, tags, keys, parent=trial)
        return name

    def log(self, trial: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Logs one step's metrics in one request.

        A metric that the run already has at this step is skipped, so a resumed trial may report
        its steps again; NaN and infinite values are skipped and counted in a tag.

        Args:
            trial: Name of an opened trial or final; `None` for the sweep itself.
            metrics: Metric -> value.
            step: Epoch, or whatever orders the values.
        """
        run_id = self._run_ids[trial]
        history = self._history(run_id)
        new = {key: float(metrics[key]) for key in metrics if (key, step) not in history.logged}
        finite = {key: value for key, value in new.items() if math.isfinite(value)}
        history.num_nonfinite += len(new) - len(finite)
        count = [RunTag(_NONFINITE_TAG, str(history.num_nonfinite))]
        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, step) for key, value in finite.items()],
            tags=count if len(finite) < len(new) else [],
        )
        history.logged.update((key, step) for key in new)

    def log_baselines(self, floors: Mapping[str, float]) -> None:
        """Logs `baseline.<name>` on the sweep and on each of its trials, those to come included.

        Args:
            floors: Baseline -> its unsupervised mIoU, percent.
        """
        self._floors = {f"baseline.{name}": value for name, value in floors.items()}
        for name in self._run_ids:
            if name not in self._finals:
                self.log(name, self._floors, step=0)

    def attach(self, trial: str | None, folder: Path) -> None:
        """Uploads what a run folder has to show; a second call replaces the first's files.

        Args:
            trial: Name of an opened trial or final; `None` for the sweep itself.
            folder: Holds any of `pictures/*.png`, `confusion.csv`, `examples.npz`, `*.yaml`, and
                `per_class.json`, a list with one object a class, which becomes a table.
        """
        run_id = self._run_ids[trial]
        for picture in sorted(folder.glob("pictures/*.png")):
            self._client.log_artifact(run_id, str(picture), "pictures")
        for file in sorted(file for name in _FILES for file in folder.glob(name)):
            self._client.log_artifact(run_id, str(file))
        table = folder / "per_class.json"
        if table.exists():
            self._attach_table(run_id, table)

    def close_trial(self, trial: str, status: Status, reason: str | None = None) -> None:
        """Ends a trial's run.

        Args:
            trial: Name of an opened trial or final.
            status: KILLED is for trials that were stopped, early or by the user.
            reason: Why it did not finish, kept as a tag.
        """
        self._end(self._run_ids[trial], status, reason)

    def close(self, status: Status) -> None:
        """Ends the sweep's run, and as KILLED every trial still RUNNING; a second call is idle."""
        if self._closed:
            return
        for run in self._search("attributes.status = 'RUNNING'"):
            if _TRIAL_TAG in run.data.tags:
                self._end(run.info.run_id, "KILLED", f"the sweep ended first ({status})")
        self._end(self._run_ids[None], status, None)
        self._closed = True

    def dashboard(self) -> tuple[str, str]:
        """Says how to look at the sweep's experiment.

        Returns:
            The shell command that starts the dashboard, empty where a server already shows it,
            and its address with the runs sorted by unsupervised mIoU, best first.
        """
        page = f"#/experiments/{self._experiment_id}/runs?{_BEST_FIRST}"
        if urlsplit(self.uri).scheme in ("http", "https"):
            return "", f"{without_password(self.uri).rstrip('/')}/{page}"
        program = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
        store = '"$MLFLOW_TRACKING_URI"' if urlsplit(self.uri).password else shlex.quote(self.uri)
        # The dashboard has telemetry of its own, and this process's environment ends with it.
        silence = f"MLFLOW_DISABLE_TELEMETRY={os.environ['MLFLOW_DISABLE_TELEMETRY']}"
        command = f"{silence} {program} ui --backend-store-uri {store}"
        return command, f"http://127.0.0.1:5000/{page}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close("FINISHED")
            return
        with explained(self.uri), short_patience():
            self.close("FAILED" if isinstance(error, Exception) else "KILLED")
            if isinstance(error, MlflowException):
                raise error

    def _search(self, condition: str = "") -> list[Run]:
        """Finds the sweep's runs, parent and children, that meet a condition."""
        quote = '"' if "'" in self._sweep else "'"
        query = f"tags.`{_SWEEP_TAG}` = {quote}{self._sweep}{quote}"
        query += f" AND {condition}" if condition else ""
        page = self._client.search_runs([self._experiment_id], query)
        runs: list[Run] = list(page)
        while page.token:
            page = self._client.search_runs([self._experiment_id], query, page_token=page.token)
            runs.extend(page)
        return runs

    def _open_run(
        self, name: str | None, params: Params, tags: Tags, keys: Tags, parent: str | None
    ) -> None:
        """Creates or reopens a run, which its keys tell from the sweep's others; describes it."""
        if name in self._run_ids:
            run = self._client.get_run(self._run_ids[name])
            self._client.update_run(run.info.run_id, status="RUNNING")
            if _REASON_TAG in run.data.tags:
                self._client.delete_tag(run.info.run_id, _REASON_TAG)
        else:
            own = {_SWEEP_TAG: self._sweep, **keys}
            if name is not None:
                own[mlflow_tags.MLFLOW_PARENT_RUN_ID] = self._run_ids[parent]
            run = self._client.create_run(
                self._experiment_id, tags=own, run_name=self._sweep if name is None else name
            )
            self._run_ids[name] = run.info.run_id
        new = [key for key in params if key not in run.data.params]
        self._client.log_batch(
            run.info.run_id,
            params=[Param(key, _as_text(params[key])) for key in new],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def _history(self, run_id: str) -> _History:
        """Reads once what a run holds, which for a new run is nothing."""
        if run_id not in self._histories:
            data = self._client.get_run(run_id).data
            logged = {
                (key, metric.step)
                for key in data.metrics
                for metric in self._client.get_metric_history(run_id, key)
            }
            self._histories[run_id] = _History(logged, int(data.tags.get(_NONFINITE_TAG, 0)))
        return self._histories[run_id]

    def _attach_table(self, run_id: str, path: Path) -> None:
        """Uploads rows as the table that MLflow's UI shows (its own `log_table` only appends)."""
        rows = json.loads(path.read_text(encoding="utf-8"))
        columns = list(rows[0]) if rows else []
        data = [[row[column] for column in columns] for row in rows]
        self._client.log_dict(run_id, {"columns": columns, "data": data}, path.name)
        shown = json.dumps([{"path": path.name, "type": "table"}])
        self._client.set_tag(run_id, mlflow_tags.MLFLOW_LOGGED_ARTIFACTS, shown)

    def _end(self, run_id: str, status: Status, reason: str | None) -> None:
        if reason:
            self._client.set_tag(run_id, _REASON_TAG, reason[:1000])
        self._client.set_terminated(run_id, status)


def final_name(trial: str, seed: int) -> str:
    """Names the run of a finalist: its trial's name and its seed."""
    return f"{trial}-seed{seed}"


def _name_of(tags: Tags) -> str | None:
    """Names a run as its ledger does, by its keys."""
    if _SEED_TAG in tags:
        return final_name(tags[_TRIAL_TAG], int(tags[_SEED_TAG]))
    return tags.get(_TRIAL_TAG)


def _as_text(value: object) -> str:
    """Writes a setting so that it can be read back: strings as they are, the rest as JSON."""
    return (value if isinstance(value, str) else json.dumps(value))[:MAX_PARAM_VAL_LENGTH]
