"""Reads sweeps back from an MLflow store: the only source of a report's numbers.

It stands after `tracking`, whose tags and names it relies on, and before the builders. It opens an
existing store and writes nothing.
"""

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from usseg_ray.core.errors import UserError, redacted
from usseg_ray.scoring.objective import MIOU
from usseg_ray.tracking.histories import histories
from usseg_ray.tracking.store import (
    PATIENCE,
    SECONDS,
    SEED_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    VERSION_TAG,
    alone,
    check_database,
    explained,
    of_sweep,
    patience,
    run_key,
    search,
    sqlite_path,
    store_uri,
)

_METHOD, _PROTOCOL = "usseg.method", "usseg.protocol"
_TEST_PROTOCOL = "usseg.test_protocol"
_ANSWER, _ANSWER_COMMAND = "usseg.answer", "usseg.answer_command"
_FINALISTS = "usseg.finalists"
_FOLDER, _OBJECTIVE, _PICKED = "usseg.folder", "usseg.objective", "usseg.picked"


@dataclass(frozen=True)
class RunRecord:
    """One run of the store.

    Attributes:
        id: Its id.
        name: Its name.
        status: FINISHED, FAILED, KILLED or RUNNING.
        start: When it began, milliseconds of Unix time.
        seconds: From its start to its end; `None` while it runs.
        params: Its settings, read back from the text in which they are kept.
        tags: Its tags.
        metrics: The last value of each of its metrics.
        objective: The metric that its sweep ranks by; of every one, more is better.
    """

    id: str
    name: str
    status: str
    start: int
    seconds: float | None
    params: dict[str, Any]
    tags: dict[str, str]
    metrics: dict[str, float]
    objective: str = MIOU

    @classmethod
    def of(cls, run: Run, objective: str = MIOU) -> Self:
        """Takes over what MLflow says of a run."""
        start, end = run.info.start_time, run.info.end_time
        return cls(
            run.info.run_id,
            run_key(run.data.tags) or str(run.info.run_name),
            str(run.info.status),
            start,
            (end - start) / 1000 if end else None,
            {key: _value(text) for key, text in run.data.params.items()},
            dict(run.data.tags),
            dict(run.data.metrics),
            objective,
        )

    @property
    def trial(self) -> str:
        """Name of its trial; of the parent, its own."""
        return self.tags.get(TRIAL_TAG, self.name)

    @property
    def method(self) -> str:
        """Name of its method."""
        return self.tags.get(_METHOD, "")

    @property
    def score(self) -> float | None:
        """What it is ranked by, on the selection split at its last epoch."""
        return self.metrics.get(self.objective)

    @property
    def ranked(self) -> bool:
        """Whether its score is one to rank: it ended by itself or by the scheduler."""
        return self.status == "FINISHED" and self.score is not None


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as the store knows it.

    Attributes:
        parent: The run of the sweep itself.
        trials: A run for each trial, the best score first.
        seeds: Runs of finalists that were trained again with other seeds.
    """

    parent: RunRecord
    trials: tuple[RunRecord, ...]
    seeds: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        """Names it to its user: the folder of the run, else its key."""
        return self.parent.tags.get(_FOLDER) or self.parent.tags[SWEEP_TAG]

    @property
    def protocol(self) -> str:
        """What trials were scored under, on the selection split."""
        return self.parent.tags.get(_PROTOCOL, "protocol unknown")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings that all trials share."""
        return self.parent.params | (self.trials[0].params if self.trials else {})

    @property
    def objective(self) -> str:
        """The metric that its trials are ranked by."""
        return self.parent.objective

    @property
    def picked(self) -> str:
        """What picked its settings and finalists; nothing where there was no choice."""
        return self.parent.tags.get(_PICKED, "")

    @property
    def answer(self) -> tuple[str, ...]:
        """What it came to, and the command to go on with; nothing before it has ended."""
        tags = self.parent.tags
        return tuple(tags[name] for name in (_ANSWER, _ANSWER_COMMAND) if tags.get(name))

    @property
    def test_protocol(self) -> str:
        """What finalists were scored under, on the test split."""
        for run in self.seeds:
            if stamp := run.tags.get(_TEST_PROTOCOL):
                return stamp
        selection = self.settings.get("data.selection_split", "val")
        test = self.settings.get("data.test_split", "test")
        return self.protocol.replace(f" {selection}, ", f" {test}, ", 1)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of its methods, in order of their names."""
        return tuple(sorted({run.method for run in self.trials}))

    def finalists(self) -> list[tuple[RunRecord, tuple[RunRecord, ...]]]:
        """Finds the trials that went on to the test split, and what they scored there.

        Returns:
            Trials, best of the selection split first, each with its runs over seeds, or with itself
            where it was scored on the test split without being trained again. Where none was, the
            best trial of each method, without any.
        """
        again: dict[str, list[RunRecord]] = defaultdict(list)
        # Runs of an earlier life's finalists stay in the store.
        last = self.parent.tags.get(_FINALISTS, "").split()
        for seed in self.seeds:
            if not last or seed.trial in last:
                again[seed.trial].append(seed)
        chosen = [(run, tuple(again[run.trial])) for run in self.trials if run.trial in again]
        if not chosen:
            chosen = [(run, (run,)) for run in self.trials if "test.unsup_miou" in run.metrics]
        if not chosen:
            best: dict[str, RunRecord] = {}
            for run in self.trials:
                if run.ranked:
                    best.setdefault(run.method, run)
            chosen = [(run, ()) for run in best.values()]
        return chosen


class Store:
    """An MLflow store, read only.

    Args:
        tracking_uri: Its address; else `MLFLOW_TRACKING_URI`, else SQLite in this folder.
        experiment: MLflow experiment to read.

    Raises:
        UserError: There is no such store, it does not answer, or has no such experiment.
    """

    def __init__(self, tracking_uri: str | None, experiment: str) -> None:
        # Its progress bars are for people who wait for large files.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._uri = store_uri(tracking_uri)
        self.experiment = experiment
        path = sqlite_path(self._uri)
        if path and not path.is_file():
            raise UserError(
                f"There is no MLflow store at {path}: run it where the sweep was run, or give "
                "--tracking-uri sqlite:///path/to/mlflow.db."
            )
        with explained(self._uri), alone(self._uri):
            check_database(self._uri)
            self._client = MlflowClient(self._uri)
            with patience(PATIENCE):
                found = self._client.get_experiment_by_name(experiment)
                there = [] if found else self._client.search_experiments()
        if found is None:
            names = ", ".join(sorted(one.name for one in there))
            raise UserError(f"{self.address} has no experiment {experiment!r}; it has {names}.")
        self._experiment_id = found.experiment_id

    @property
    def address(self) -> str:
        """Where it is, without a password."""
        return redacted(self._uri)

    def sweeps(self, names: Sequence[str]) -> list[SweepRecord]:
        """Reads sweeps.

        Args:
            names: Their keys or the names of their folders; the latest sweep if empty.

        Returns:
            The sweeps, in that order.

        Raises:
            UserError: One is not in the store; says which are.
        """
        with explained(self._uri):
            return [self._sweep(key) for key in dict.fromkeys(map(self._key, names or [""]))]

    def histories(self, runs: Sequence[RunRecord], metric: str) -> dict[str, dict[int, float]]:
        """Reads all values of a metric of some runs: run's id -> step -> value, by step."""
        having = [run.id for run in runs if metric in run.metrics]
        with explained(self._uri):
            found = histories(self._client, having, metric)
        return {run.id: found.get(run.id, {}) for run in runs}

    def seconds(self, run: RunRecord) -> float | None:
        """Says how long a run was trained and scored, as the sweep's screen does.

        Runs of 0.1.0 did not note it: theirs is from start to end, and that of a finalist's seed,
        which was opened again to be scored, until its last epoch. One that its trial had trained
        already took nothing.
        """
        if SECONDS in run.metrics:
            return run.metrics[SECONDS]
        if SEED_TAG not in run.tags:
            return run.seconds
        with explained(self._uri):
            epochs = self._client.get_metric_history(run.id, "epoch")
        return max(((epoch.timestamp - run.start) / 1000 for epoch in epochs), default=None)

    def artifact(self, run: RunRecord, path: str) -> bytes | None:
        """Reads a file of a run; `None` where it has none of that name."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run.id, path, folder)).read_bytes()
            except (MlflowException, OSError):
                return None

    def _key(self, name: str) -> str:
        """Finds a sweep's key by that key or its folder's name; the latest one's for no name."""
        there = []
        # These alone have a version; to look at all runs takes as long as they are many.
        for run in filter(_is_parent, self._search(f"tags.`{VERSION_TAG}` LIKE '%'")):
            names = run.data.tags[SWEEP_TAG], run.data.tags.get(_FOLDER, run.info.run_name)
            if not name or name in names:
                return str(names[0])
            there.append(names[1])
        latest = f"; the latest are {', '.join(there[:5])}" if there else ", and no other"
        raise UserError(
            f"Experiment {self.experiment!r} in {self.address} has no sweep {name!r}{latest}."
        )

    def _sweep(self, key: str) -> SweepRecord:
        found = self._search(of_sweep(key))
        (objective, *_) = (run.data.tags.get(_OBJECTIVE, MIOU) for run in found if _is_parent(run))
        runs = [RunRecord.of(run, objective) for run in found]
        trials = [run for run in runs if TRIAL_TAG in run.tags and SEED_TAG not in run.tags]
        seeds = [run for run in runs if TRIAL_TAG in run.tags and SEED_TAG in run.tags]
        (parent, *_) = (run for run in runs if TRIAL_TAG not in run.tags)
        return SweepRecord(
            parent,
            tuple(sorted(trials, key=_best_first)),
            tuple(sorted(seeds, key=lambda run: (run.trial, _number(run.tags[SEED_TAG])))),
        )

    def _search(self, query: str) -> list[Run]:
        """Finds runs, the latest first."""
        return search(self._client, self._experiment_id, query)


def _is_parent(run: Run) -> bool:
    return SWEEP_TAG in run.data.tags and TRIAL_TAG not in run.data.tags


def _best_first(run: RunRecord) -> tuple[bool, float, str]:
    return not run.ranked, -(run.score or 0.0), run.trial


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (0, text)


def _value(text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except ValueError:
        return text
