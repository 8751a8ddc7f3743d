"""Where the sweep's book lies: the address of an MLflow store, and what it says when it fails.

Beside `tracking`, which writes the runs. A store that is out of reach is to be told in seconds and
in two lines: MLflow itself retries for minutes and then prints its libraries' traceback.
"""

import contextlib
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from usseg_ray.config import UserError

PATIENCE = 4  # seconds that a store has for its first answer
SWEEP_TAG, TRIAL_TAG, SEED_TAG = "usseg.sweep", "usseg.trial", "usseg.seed"
"""Keys of a run; a sweep's own run has the first, a trial's two, a finalist's three."""
REASON_TAG = "usseg.reason"
_DATABASES = ("postgresql", "mysql", "mssql")


def store_uri(tracking_uri: str | None) -> str:
    """Chooses the store and makes its address absolute, since a dashboard starts elsewhere.

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
        return f"sqlite:///{Path(path).resolve()}" + (f"?{options}" if options else "")
    if scheme in ("http", "https") or scheme.split("+")[0] in _DATABASES:
        return uri
    raise UserError(
        f"Tracking URI {uri!r} is no server and no database; MLflow keeps no runs in folders.\n"
        "Use http://host:5000 or sqlite:///path/to/mlflow.db, or leave it out for ./mlflow.db."
    )


def sqlite_path(uri: str) -> Path | None:
    """Returns the file of a SQLite store, and `None` for any other."""
    return Path(uri[len("sqlite:///") :].partition("?")[0]) if uri.startswith("sqlite:") else None


def without_password(text: str) -> str:
    """Blackens the password in every address of a text."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns a store's failure into the line that its user can act on.

    Raises:
        UserError: The store failed.
    """
    try:
        yield
    except (MlflowException, OSError, ImportError, sqlite3.Error) as error:
        raise UserError(
            f"Tracking store {without_password(uri)} cannot be used: {cause(error)}\n"
            "Start its server, correct --tracking-uri or MLFLOW_TRACKING_URI, or leave both out to "
            "keep runs in ./mlflow.db."
        ) from error


def cause(error: BaseException) -> str:
    """Says in one line, and without passwords, what went wrong."""
    return " ".join(without_password(str(_root(error))).split())[:300]


def _root(error: BaseException) -> BaseException:
    """Finds the plain system error under layers of HTTP libraries, if there is one."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and type(inner).__module__ in ("builtins", "socket"):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error


def check_database(uri: str) -> None:
    """Touches a database first: MLflow retries one that cannot be opened for two minutes.

    Raises:
        OSError: Nothing listens there, or the file cannot be written.
        sqlite3.Error: The file is no database, or somebody keeps it locked.
    """
    parts = urlsplit(uri)
    path = sqlite_path(uri)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        location = (path.parent / "mlartifacts").as_uri() if path else None
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
