"""A sweep's runs in the store: found by their keys, written as the spool says.

Between `tracking.writer`, whose thread calls it, and MLflow. A run is keyed by tags (sweep, trial,
seed), so that a retried or resumed one is found and reopened. Everything here can be done twice
and leaves the same: a metric is written once a step, one that sums up where it has changed, a param
once and for all.
"""

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from usseg_ray.core.errors import redacted
from usseg_ray.tracking.heartbeat import HEARTBEAT_TAG, PROCESS_TAG, now, this_process
from usseg_ray.tracking.spool import Operation
from usseg_ray.tracking.store import (
    REASON_TAG,
    SEED_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    of_sweep,
    run_key,
    search,
)

NONFINITE_TAG = "usseg.nonfinite_values"

CHAMPION = "champion"

"""Alias of the version of a registered model that is to be used."""

TEST = "test."

"""Begins the names of what was scored on the test split."""

CHANGED = "changed."

"""Begins the name of the metric that follows a setting which has changed since the run began."""


@dataclass
class _History:
    """What a run holds already.

    Attributes:
        logged: (metric, step) -> its last value there.
        unread: Metrics that it holds of which it was not read at which steps.
        num_nonfinite: Values that were refused as non-finite.
    """

    logged: dict[tuple[str, int], float] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    num_nonfinite: int = 0


@dataclass
class _Batch:
    """What goes to one run in one request."""

    metrics: list[Metric] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class Runs:
    """The runs of one sweep in a store.

    Args:
        client: Of the store.
        experiment_id: MLflow's id of the experiment.
        sweep: Key of the sweep.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._sweep = sweep
        self._open: set[str | None] = set()
        self._known: dict[str | None, str] | None = None
        self._finals: set[str | None] = set()
        self._histories: dict[str, _History] = {}
        self._batches: defaultdict[str, _Batch] = defaultdict(_Batch)

    def apply(self, operations: Iterable[Operation]) -> None:
        """Does operations in order; what goes to the same run, in as few requests as it takes."""
        for operation in operations:
            getattr(self, f"_do_{operation.kind}")(operation)
        self._send_all()

    def forget(self) -> None:
        """Forgets what the store holds, after a request of which nobody knows what became."""
        self._known = None
        self._histories.clear()
        self._batches.clear()

    def probe(self) -> None:
        """Asks the store for something small, which raises if it does not answer."""
        self._client.get_experiment(self._experiment_id)

    def beat(self) -> None:
        """Marks the sweep's run and its open trials as alive."""
        for run_id in self._alive():
            self._client.set_tag(run_id, HEARTBEAT_TAG, now())

    def revive(self) -> None:
        """Takes back the end that somebody gave to open runs while the store was out of reach."""
        for run in map(self._client.get_run, self._alive()):
            if run.info.status != "RUNNING":
                self._reopen(run)

    def _alive(self) -> list[str]:
        """Lists the runs that are open here, less those that a user has deleted."""
        return [run_id for name, run_id in self._ids().items() if name in self._open]

    def _do_store(self, operation: Operation) -> None:
        """The header is for those who find the file."""

    def _do_open(self, operation: Operation) -> None:
        """Creates or reopens the run; data: keys, parent, params, tags, dataset."""
        name, data = operation.run, operation.data
        alive = {HEARTBEAT_TAG: now(), PROCESS_TAG: this_process()}
        if name in self._ids():
            run = self._client.get_run(self._id(name))
            self._reopen(run)
        else:
            keys = {SWEEP_TAG: self._sweep, **data["keys"]}
            if name is not None:
                keys[mlflow_tags.MLFLOW_PARENT_RUN_ID] = self._id(data["parent"])
            run = self._client.create_run(
                self._experiment_id,
                start_time=operation.time,
                tags=keys | alive,
                run_name=self._sweep if name is None else name,
            )
            self._ids()[name] = run.info.run_id
            self._finals |= {name} if SEED_TAG in keys else set()
            self._histories[run.info.run_id] = _History()
            if dataset := data.get("dataset"):
                self._client.log_inputs(run.info.run_id, [_input(dataset)])
        self._open.add(name)
        batch = self._batches[run.info.run_id]
        tags = {key: redacted(value) for key, value in data["tags"].items()}
        batch.tags |= tags | alive
        self._describe(run, data["params"], operation.time)

    def _describe(self, run: Run, params: Mapping[str, Any], at: int) -> None:
        """Writes params that the run lacks; of those with another value, numbers as metrics."""
        changed: dict[str, float] = {}
        for key, setting in params.items():
            text = _as_text(setting)
            if key not in run.data.params:
                self._batches[run.info.run_id].params.append(Param(key, text))
            elif run.data.params[key] != text and isinstance(setting, int | float):
                changed[f"{CHANGED}{key}"] = float(setting)
        if changed:
            history = self._history(run.info.run_id)
            steps = [step for _, step in self._read(history, run.info.run_id, history.unread)]
            self._log(run.info.run_id, changed, max(steps, default=0), at)

    def _do_log(self, operation: Operation) -> None:
        """Logs metrics; data: metrics, step, summary."""
        data, run_id = operation.data, self._id(operation.run)
        summary = data.get("summary", False)
        self._log(run_id, data["metrics"], data["step"], operation.time, summary=summary)

    def _do_floors(self, operation: Operation) -> None:
        """Logs metrics and tags on the sweep and all of its trials; data: metrics, tags.

        Finalists are scored on another split, and get floors of their own.
        """
        for run_id in self._trials():
            self._log(run_id, operation.data["metrics"], 0, operation.time, summary=True)
            self._batches[run_id].tags |= operation.data.get("tags", {})

    def _do_tags(self, operation: Operation) -> None:
        """Tags a run; data: tags."""
        tags = {key: redacted(value) for key, value in operation.data["tags"].items()}
        self._batches[self._id(operation.run)].tags |= tags

    def _do_files(self, operation: Operation) -> None:
        """Uploads files; data: pairs of path and folder in the run."""
        run_id = self._id(operation.run)
        for path, where in operation.data["files"]:
            self._client.log_artifact(run_id, path, where)

    def _do_table(self, operation: Operation) -> None:
        """Uploads rows as a table of MLflow's UI (its own function only appends); data: path."""
        run_id, path = self._id(operation.run), Path(operation.data["path"])
        rows = json.loads(path.read_text(encoding="utf-8"))
        columns = list(rows[0]) if rows else []
        data = [[row[column] for column in columns] for row in rows]
        self._client.log_dict(run_id, {"columns": columns, "data": data}, path.name)
        shown = json.dumps([{"path": path.name, "type": "table"}])
        self._client.set_tag(run_id, mlflow_tags.MLFLOW_LOGGED_ARTIFACTS, shown)

    def _do_model(self, operation: Operation) -> None:
        """Uploads a model, registered if that was asked; data: path, register, dataset."""
        run_id, data = self._id(operation.run), operation.data
        name = operation.run or self._sweep
        own = f"name = '{name}' AND source_run_id = '{run_id}'"
        found = self._client.search_logged_models([self._experiment_id], own)
        model = found[0] if found else None
        if model is None:
            model = self._client.create_logged_model(self._experiment_id, name, run_id)
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        self._client.log_model_artifacts(model.model_id, data["path"])
        self._client.finalize_logged_model(model.model_id, "READY")
        self._link(run_id, model, data.get("dataset") or {})
        if data["register"]:
            self._crown(data["register"], model, run_id)

    def _link(self, run_id: str, model: LoggedModel, dataset: Mapping[str, str]) -> None:
        """Links the run's last `test.` metrics with its model and the data, for MLflow's views."""
        self._send(run_id)
        names = [n for n in self._client.get_run(run_id).data.metrics if n.startswith(TEST)]
        lasts = [self._client.get_metric_history(run_id, name)[-1] for name in names]
        data = {"dataset_name": dataset.get("name"), "dataset_digest": dataset.get("digest")}
        linked = [
            Metric(m.key, m.value, m.timestamp, m.step, model.model_id, **data) for m in lasts
        ]
        self._client.log_batch(run_id, linked)

    def _crown(self, name: str, model: LoggedModel, run_id: str) -> None:
        """Makes a model a version of a registered one, and its champion if none is newer."""
        with contextlib.suppress(MlflowException):  # there is one of that name
            self._client.create_registered_model(name)
        versions = self._client.search_model_versions(f"name = '{name}'")
        # Not `models:/ID`, which MLflow looks up in its global store, and that may be another.
        source = model.artifact_location
        version = next((v for v in versions if v.source == source), None)
        if version is None:
            version = self._client.create_model_version(
                name, source, run_id, model_id=model.model_id
            )
        # A sweep that is resumed takes nothing back from a later one.
        champion = self._client.get_registered_model(name).aliases.get(CHAMPION, 0)
        if int(champion) < int(version.version):
            self._client.set_registered_model_alias(name, CHAMPION, version.version)

    def _do_end(self, operation: Operation) -> None:
        """Ends a run; data: status, reason."""
        data = operation.data
        self._end(self._id(operation.run), data["status"], data["reason"], operation.time)
        self._open.discard(operation.run)

    def _do_close(self, operation: Operation) -> None:
        """Ends the sweep's run, and as KILLED the others that are RUNNING; data: status."""
        status = operation.data["status"]
        self._send_all()
        for run in search(self._client, self._experiment_id, self._query(running=True)):
            if TRIAL_TAG in run.data.tags:
                reason = f"the sweep ended first ({status})"
                self._end(run.info.run_id, "KILLED", reason, operation.time)
        self._end(self._id(None), status, None, operation.time)
        self._open.clear()

    def _ids(self) -> dict[str | None, str]:
        """Reads once which runs the sweep has in the store."""
        if self._known is None:
            found = search(self._client, self._experiment_id, self._query())
            # The oldest comes last, and wins if a lost answer ever made two of one.
            self._known = {run_key(run.data.tags): run.info.run_id for run in found}
            self._finals |= {run_key(run.data.tags) for run in found if SEED_TAG in run.data.tags}
        return self._known

    def _id(self, name: str | None) -> str:
        found = self._ids().get(name)
        if found is None:
            raise LookupError(f"the store has no run of {name or 'the sweep'}")
        return found

    def _trials(self) -> list[str]:
        return [run_id for name, run_id in self._ids().items() if name not in self._finals]

    def _query(self, *, running: bool = False) -> str:
        return of_sweep(self._sweep) + (" AND attributes.status = 'RUNNING'" if running else "")

    def _reopen(self, run: Run) -> None:
        self._client.update_run(run.info.run_id, status="RUNNING")
        if REASON_TAG in run.data.tags:
            self._client.delete_tag(run.info.run_id, REASON_TAG)

    def _log(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int,
        at: int,
        *,
        summary: bool = False,
    ) -> None:
        """Takes a step's metrics that the run lacks; counts those that MLflow cannot hold.

        Of a summary it takes those, too, that the run has with another value.
        """
        history, batch = self._history(run_id), self._batches[run_id]
        logged = self._read(history, run_id, metrics.keys() & history.unread)
        for key, value in metrics.items():
            if logged.get((key, step)) == value or ((key, step) in logged and not summary):
                continue
            logged[key, step] = value
            if math.isfinite(value):
                batch.metrics.append(Metric(key, value, at, step))
            else:
                history.num_nonfinite += 1
                batch.tags[NONFINITE_TAG] = str(history.num_nonfinite)

    def _history(self, run_id: str) -> _History:
        """Reads once which metrics a run holds, which for a new run is none."""
        if run_id not in self._histories:
            data = self._client.get_run(run_id).data
            refused = int(data.tags.get(NONFINITE_TAG, 0))
            self._histories[run_id] = _History(unread=set(data.metrics), num_nonfinite=refused)
        return self._histories[run_id]

    def _read(
        self, history: _History, run_id: str, metrics: Set[str]
    ) -> dict[tuple[str, int], float]:
        """Reads what a run holds of some metrics at which steps; a question each, so only those."""
        for key in metrics:
            values = self._client.get_metric_history(run_id, key)
            values.sort(key=lambda value: value.timestamp)
            history.logged |= {(key, value.step): value.value for value in values}
        history.unread -= metrics
        return history.logged

    def _send(self, run_id: str) -> None:
        if batch := self._batches.pop(run_id, None):
            tags = [RunTag(key, value) for key, value in batch.tags.items()]
            self._client.log_batch(run_id, batch.metrics, batch.params, tags)

    def _send_all(self) -> None:
        for run_id in list(self._batches):
            self._send(run_id)

    def _end(self, run_id: str, status: str, reason: str | None, at: int) -> None:
        self._send(run_id)
        if reason:
            self._client.set_tag(run_id, REASON_TAG, redacted(reason)[:1000])
        self._client.set_terminated(run_id, status, at)
        # Read again if the run is opened again: the driver must not grow with trials and epochs.
        self._histories.pop(run_id, None)


def _input(dataset: Mapping[str, str]) -> DatasetInput:
    """Describes the data of a run as MLflow does; a digest has its first digits there."""
    source = json.dumps({"uri": redacted(dataset["source"])})
    return DatasetInput(Dataset(dataset["name"], dataset["digest"], "usseg_ray", source))


def _as_text(value: object) -> str:
    """Writes a setting so that it can be read back: strings as they are, the rest as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return redacted(text)[:MAX_PARAM_VAL_LENGTH]
