"""Histories of many runs at a time, as MLflow's own dashboard asks for them.

Its client has a question for one run and one metric alone, which for thousands of runs takes a
minute.
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from itertools import chain

from mlflow import MlflowClient
from mlflow.utils.rest_utils import http_request

_BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"

RUNS_AT_ONCE, VALUES_AT_ONCE = 100, 25_000
"""Runs that MLflow takes in one question for a metric, and values that an answer has at most."""


def histories(client: MlflowClient, ids: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
    """Reads all values of a metric of runs, many runs at a time.

    Args:
        client: Of the store.
        ids: MLflow's ids of the runs.
        metric: Its name.

    Returns:
        Run -> step -> value, by step; empty for a run without any.
    """
    found: dict[str, dict[int, float]] = {run: {} for run in ids}
    for start in range(0, len(ids), RUNS_AT_ONCE):
        for run, step, value in _values(client, ids[start : start + RUNS_AT_ONCE], metric):
            found[run][step] = value
    return {run: dict(sorted(values.items())) for run, values in found.items()}


def _values(
    client: MlflowClient, ids: Sequence[str], metric: str
) -> Iterable[tuple[str, int, float]]:
    """Yields (run, step, value), of a run in the order in which they were logged."""
    found = _asked_together(client, ids, metric) if len(ids) > 1 else None
    if found is None:
        pages = ((run, client.get_metric_history(run, metric)) for run in ids)
        return ((run, one.step, one.value) for run, values in pages for one in values)
    if len(found) < VALUES_AT_ONCE:
        return found
    # The answer may have been cut off.
    half = len(ids) // 2
    return chain(_values(client, ids[:half], metric), _values(client, ids[half:], metric))


def _asked_together(
    client: MlflowClient, ids: Sequence[str], metric: str
) -> list[tuple[str, int, float]] | None:
    """Asks a database or a server for several runs.

    Returns:
        (run, step, value); `None` where a store or server does not know the question.
    """
    store = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        rows = store.get_metric_history_bulk(ids, metric, VALUES_AT_ONCE)
        return [(one.run_id, one.step, one.value) for one in rows]
    if not hasattr(store, "get_host_creds"):
        return None
    asked = {"run_id": list(ids), "metric_key": metric, "max_results": VALUES_AT_ONCE}
    answer = http_request(store.get_host_creds(), _BULK, "GET", params=asked)
    if answer.status_code != HTTPStatus.OK:
        return None
    return [(one["run_id"], one["step"], one["value"]) for one in answer.json()["metrics"]]
