"""An MLflow store: its address, what its dashboard opens on, and what it says when it fails.

A store that is out of reach is to be told in seconds and in two lines: MLflow itself retries for
minutes and then prints its libraries' traceback.
"""

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from os import environ
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags

from usseg_ray import __version__
from usseg_ray.core.errors import UserError, redacted
from usseg_ray.core.lock import only_one
from usseg_ray.core.machine import cpu_name, vector_instructions

_MAKING_S = 60.0
PATIENCE = 4  # seconds that a store has for its first answer

SWEEP_TAG, TRIAL_TAG, SEED_TAG = "usseg.sweep", "usseg.trial", "usseg.seed"

"""Keys of a run; a sweep's own run has the first, a trial's two, a finalist's three."""

ROLE_TAG = "usseg.role"

"""`sweep`, `trial` or `seed`: what a run is, for views of runs of one kind."""

VERSION_TAG = "usseg.version.usseg_ray"
"""Which version made a sweep's own run, which alone has it."""

REASON_TAG = "usseg.reason"

SECONDS, GPUS_TAG = "trial_seconds", "usseg.trial_gpus"

"""The metric of how long a run has been trained and scored, and how many GPUs each trial has."""

_OTHER_SCHEMA = re.compile("out-of-date database schema|Can't locate revision")

_ENDING = frozenset("?%")

_DATABASES = ("postgresql", "mysql", "mssql")


def store_uri(tracking_uri: str | None) -> str:
    """Chooses the store; its address is absolute where it can be, as a dashboard starts elsewhere.

    Args:
        tracking_uri: MLflow store; else `MLFLOW_TRACKING_URI`, else SQLite in this folder.

    Returns:
        Its address, password included.

    Raises:
        UserError: MLflow keeps no runs in such a place.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = urlsplit(uri).scheme
    if scheme == "sqlite":
        path, _, options = uri.removeprefix("sqlite:///").partition("?")
        return _address(Path(path), options)
    if scheme in ("http", "https") or scheme.split("+")[0] in _DATABASES:
        return uri
    raise UserError(
        f"Tracking URI {uri!r} is no server and no database; MLflow keeps no runs in folders.\n"
        "Use http://host:5000 or sqlite:///path/to/mlflow.db, or leave it out for ./mlflow.db."
    )


def sqlite_path(uri: str) -> Path | None:
    """Returns the file of a SQLite store, and `None` for any other."""
    return Path(uri[len("sqlite:///") :].partition("?")[0]) if uri.startswith("sqlite:") else None


def _address(path: Path, options: str) -> str:
    """Writes a file's address: absolute, or from here where a folder's name would end it.

    What SQLAlchemy and MLflow make of a `?` or `%` in a path differs with their versions.
    """
    name = str(path.resolve())
    if set(name) & _ENDING:
        name = os.path.relpath(name)
    if set(name) & _ENDING:
        raise UserError(
            f"{path.resolve()}: an address of a database has neither ? nor % in it. Run in that "
            "folder, or set --tracking-uri sqlite:////FOLDER/mlflow.db."
        )
    return f"sqlite:///{name}" + (f"?{options}" if options else "")


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns a store's failure into the line that its user can act on.

    Raises:
        UserError: The store failed.
    """
    try:
        yield
    except (MlflowException, OSError, ImportError, sqlite3.Error) as error:
        if _OTHER_SCHEMA.search(str(error)):
            raise UserError(
                f"Tracking store {redacted(uri)} was made by another MLflow than "
                f"{version('mlflow')}.\nBy a newer one: pip install -U mlflow. By an older one: "
                "copy it, then mlflow db upgrade URI. Or keep runs elsewhere: --tracking-uri "
                "sqlite:///other.db."
            ) from error
        raise UserError(
            f"Tracking store {redacted(uri)} cannot be used: {cause(error)}\n"
            "Start its server, correct --tracking-uri or MLFLOW_TRACKING_URI, or leave both out to "
            "keep runs in ./mlflow.db."
        ) from error


def cause(error: BaseException) -> str:
    """Says in one line, and without passwords, what went wrong."""
    return " ".join(redacted(str(_root(error))).split())[:300]


def _root(error: BaseException) -> BaseException:
    """Finds the plain system error under layers of HTTP libraries, if there is one."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and type(inner).__module__ in ("builtins", "socket"):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error


@contextlib.contextmanager
def alone(uri: str) -> Iterator[None]:
    """Keeps two commands from making the tables of one local database at the same time.

    Raises:
        UserError: Another process has been at it for a minute.
    """
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_one(path.with_name(f"{path.name}.lock"), "the MLflow database", _MAKING_S):
        yield


def check_database(uri: str) -> None:
    """Touches a database first: MLflow retries one that cannot be opened for two minutes.

    Raises:
        OSError: Nothing listens there, or the file cannot be written.
        sqlite3.Error: The file is no database, or somebody keeps it locked.
    """
    parts = urlsplit(uri)
    path = sqlite_path(uri)
    if path:
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            database.execute("BEGIN IMMEDIATE")
    elif parts.scheme not in ("http", "https") and parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE).close()


@contextlib.contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Has a dead server fail within seconds; MLflow's own retries would take minutes."""
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    before = {name: os.environ[name] for name in limits if name in os.environ}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name in limits:
            os.environ.pop(name, None)
        os.environ.update(before)


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Finds or creates the experiment; a local database keeps its files beside itself.

    Args:
        client: Of the store.
        name: Of the experiment.
        uri: Absolute address of the store.

    Returns:
        MLflow's id.

    Raises:
        UserError: The experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        path = sqlite_path(uri)
        location = (path.resolve().parent / "mlartifacts").as_uri() if path else None
        return str(client.create_experiment(name, location))
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"MLflow experiment {name!r} is in the store's bin.\nRestore it (mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}) or choose another name."
        )
    return str(experiment.experiment_id)


def search(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """Finds all runs of an experiment that meet a condition, the newest first."""
    page = client.search_runs([experiment_id], query)
    runs: list[Run] = list(page)
    while page.token:
        page = client.search_runs([experiment_id], query, page_token=page.token)
        runs.extend(page)
    return runs


COLUMNS = {
    "tags.`usseg.data`": 95,
    "tags.`usseg.test`": 110,
    "tags.`usseg.beside`": 300,
    "tags.`usseg.method`": 105,
    "params.`num_clusters`": 105,
    "tags.`usseg.score`": 95,
    "metrics.`test.unsup_miou`": 130,
    "metrics.`test.unsup_acc`": 130,
    "metrics.`test.linear_miou`": 130,
    "metrics.`unsup_miou`": 110,
    "tags.`usseg.protocol`": 300,
}
"""Columns and their widths in pixels: what fits a screen beside MLflow's panels comes first.

On one of 1366 pixels those leave 430, beside the run's name, which has method, K and score.
"""

_ALWAYS = {"attributes.`Run Name`": 180, "runDateAndNestInfo": 60}
"""Columns of MLflow's own that cannot be left out: what a run is called, and when it began."""


def share_view(client: MlflowClient, experiment_id: str, sweep: str) -> None:
    """Puts a view of a sweep's trials into the experiment, unless it is there already.

    Its runs were all measured alike: the trials on the selection split, the seeds' means on the
    test split.

    Args:
        client: Of the store.
        experiment_id: MLflow's id of the experiment.
        sweep: Key of the sweep.
    """
    state = {
        "searchFilter": f"{of_sweep(sweep)} AND tags.`{ROLE_TAG}` = 'trial'",
        "orderByKey": "metrics.`unsup_miou`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": [*_ALWAYS, *COLUMNS],
        "columnWidths": _ALWAYS | COLUMNS,
    }
    key, text = f"mlflow.sharedViewState.{_view(sweep)}", json.dumps(state)
    if client.get_experiment(experiment_id).tags.get(key) != text:
        client.set_experiment_tag(experiment_id, key, text)


def final_name(trial: str, seed: int) -> str:
    """Names the run of a finalist: its trial's name and its seed."""
    return f"{trial}-seed{seed}"


def run_key(tags: Mapping[str, str]) -> str | None:
    """Names a run as its ledger does, by its keys; MLflow's own name of it is for its readers."""
    if SEED_TAG in tags:
        return final_name(tags[TRIAL_TAG], int(tags[SEED_TAG]))
    return tags.get(TRIAL_TAG)


def of_sweep(sweep: str) -> str:
    """Writes MLflow's condition for all runs of a sweep."""
    quote = '"' if "'" in sweep else "'"
    return f"tags.`{SWEEP_TAG}` = {quote}{sweep}{quote}"


def _view(sweep: str) -> str:
    """Names a sweep's view; folders have letters that neither a tag nor an address may have."""
    return f"usseg-{sha256(sweep.encode()).hexdigest()[:12]}"


def address(uri: str, experiment_id: str, sweep: str) -> tuple[str, str]:
    """Says how to open the view.

    Args:
        uri: Absolute tracking URI.
        experiment_id: MLflow's id of the experiment.
        sweep: Key of the sweep.

    Returns:
        The shell command that starts the dashboard, empty where a server already shows it, and
        the address of the page.
    """
    page = f"#/experiments/{experiment_id}/runs?viewStateShareKey={_view(sweep)}"
    if urlsplit(uri).scheme in ("http", "https"):
        return "", f"{redacted(uri).rstrip('/')}/{page}"
    program = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
    store = '"$MLFLOW_TRACKING_URI"' if urlsplit(uri).password else shlex.quote(uri)
    # The dashboard has telemetry of its own, and this process's environment ends with it; its jobs
    # evaluate language models, and take eight processes and 1.5 GB.
    telemetry = f"MLFLOW_DISABLE_TELEMETRY={environ['MLFLOW_DISABLE_TELEMETRY']}"
    quiet = f"{telemetry} MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{quiet} {program} ui --backend-store-uri {store}", f"http://127.0.0.1:5000/{page}"


_PACKAGES = ("torch", "ray", "mlflow", "timm", "faiss-gpu", "faiss-cpu")


def environment() -> dict[str, str]:
    """Names versions of packages, in a checkout the git commit, and this machine's processors.

    Returns:
        Tag -> value.
    """
    python = platform.python_version()
    tags = {
        VERSION_TAG: __version__,
        "usseg.version.python": python,
        "usseg.machine.cpu": cpu_name(),
        "usseg.machine.vector_instructions": vector_instructions(),
    }
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            tags[f"usseg.version.{package}"] = version(package)
    root = Path(__file__).parents[2]
    if (root / ".git").exists():  # an installed copy may lie inside somebody else's repository
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            commit = subprocess.check_output(
                command, cwd=root, text=True, stderr=subprocess.DEVNULL
            )
            tags[mlflow_tags.MLFLOW_GIT_COMMIT] = commit.strip()
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # Not by torch, which would take memory on the GPU for as long as the sweep runs.
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.check_output(asked, text=True, stderr=subprocess.DEVNULL)
        tags["usseg.machine.gpu"] = "; ".join(sorted(set(found.strip().splitlines())))
    return tags
