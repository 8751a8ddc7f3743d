"""Histories of many runs are read from real stores, in few questions."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from usseg_ray.tracking.histories import VALUES_AT_ONCE, histories


@pytest.mark.parametrize("most", [VALUES_AT_ONCE, 20])
def test_histories_of_many_runs_are_those_of_each(
    store: Path, server: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usseg_ray.tracking.histories.VALUES_AT_ONCE", most)
    monkeypatch.setattr("usseg_ray.tracking.histories.RUNS_AT_ONCE", 4)
    for uri in (f"sqlite:///{store}", server):
        client = MlflowClient(uri)
        experiment = client.create_experiment(f"histories-{most}")
        ids = [client.create_run(experiment).info.run_id for _ in range(6)]
        for place, run in enumerate(ids[:5]):
            for step in reversed(range(7)):
                client.log_metric(run, "loss", place + step / 8, step=step)
        client.log_metric(ids[0], "loss", 9.0, step=3)
        found = histories(client, ids, "loss")
        assert found == {
            run: {
                step: 9.0 if (place, step) == (0, 3) else place + step / 8
                for step in range(7)
                if place < 5
            }
            for place, run in enumerate(ids)
        }
        assert list(found[ids[0]]) == list(range(7))
        assert histories(client, [], "loss") == {}


def test_a_server_that_does_not_know_the_question_is_asked_run_by_run(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "usseg_ray.tracking.histories._BULK", "/ajax-api/2.0/mlflow/no-such-question"
    )
    client = MlflowClient(server)
    ids = [client.create_run("0").info.run_id for _ in range(3)]
    for run in ids:
        client.log_metric(run, "loss", 0.5, step=1)
    assert histories(client, ids, "loss") == {run: {1: 0.5} for run in ids}
