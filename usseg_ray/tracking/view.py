"""What the dashboard opens on: trials of all sweeps in one table, best first, floors beside them.

MLflow hides metrics, params and tags until they are chosen by hand. Its "shared view" is a tag of
the experiment that holds the state of the page; an address that names the tag opens on it.
"""

import json
import shlex
import shutil
import sys
from os import environ
from urllib.parse import urlsplit

from mlflow import MlflowClient

from usseg_ray.tracking.store import TRIAL_TAG, without_password

_VIEW = "usseg"
COLUMNS = {
    "tags.`usseg.method`": 110,
    "params.`num_clusters`": 110,
    "metrics.`unsup_miou`": 110,
    "metrics.`baseline.position`": 130,
    "metrics.`baseline.colour`": 125,
    "tags.`usseg.protocol`": 190,
    "metrics.`baseline.kmeans`": 130,
    "metrics.`baseline.linear`": 120,
    "metrics.`test.unsup_miou`": 130,
}
"""Columns and their widths in pixels: what fits beside MLflow's panels comes first."""


def share_view(client: MlflowClient, experiment_id: str) -> None:
    """Puts the view into the experiment, unless it is there already.

    Args:
        client: Of the store.
        experiment_id: MLflow's id of the experiment.
    """
    state = {
        "searchFilter": f"tags.`{TRIAL_TAG}` LIKE '%'",
        "orderByKey": "metrics.`unsup_miou`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
    }
    key, text = f"mlflow.sharedViewState.{_VIEW}", json.dumps(state)
    if client.get_experiment(experiment_id).tags.get(key) != text:
        client.set_experiment_tag(experiment_id, key, text)


def address(uri: str, experiment_id: str) -> tuple[str, str]:
    """Says how to open the view.

    Args:
        uri: Absolute tracking URI.
        experiment_id: MLflow's id of the experiment.

    Returns:
        The shell command that starts the dashboard, empty where a server already shows it, and
        the address of the page.
    """
    page = f"#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}"
    if urlsplit(uri).scheme in ("http", "https"):
        return "", f"{without_password(uri).rstrip('/')}/{page}"
    program = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
    store = '"$MLFLOW_TRACKING_URI"' if urlsplit(uri).password else shlex.quote(uri)
    # The dashboard has telemetry of its own, and this process's environment ends with it.
    silence = f"MLFLOW_DISABLE_TELEMETRY={environ['MLFLOW_DISABLE_TELEMETRY']}"
    return f"{silence} {program} ui --backend-store-uri {store}", f"http://127.0.0.1:5000/{page}"
