"""What the sweep's run says of its surroundings: an allow-list, and no secret."""

import os
import platform
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from usseg_ray.core.errors import UserError
from usseg_ray.tracking.store import (
    VALUES_AT_ONCE,
    check_database,
    environment,
    experiment_id,
    explained,
    histories,
    sqlite_path,
    store_uri,
)


def test_versions_are_named_and_nothing_of_the_environment_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-K7MDENG")
    found = environment()
    assert found["usseg.version.python"] == platform.python_version()
    assert {"usseg.version.torch", "usseg.version.ray", "usseg.version.mlflow"} <= set(found)
    named = ("usseg.version.", "usseg.machine.", "mlflow.source.git.commit")
    assert [key for key in found if not key.startswith(named)] == []
    assert "planted-K7MDENG" not in str(found)


def test_the_gpus_are_named_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nfor i in 1 2; do echo 'NVIDIA H100 80GB HBM3, 580.65'; done\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert environment()["usseg.machine.gpu"] == "NVIDIA H100 80GB HBM3, 580.65"


@pytest.mark.parametrize(
    ("name", "file"),  # MLflow keeps one engine for each address
    [("photos of 2024?", "a.db"), ("photos #1", "b.db"), ("50 % ?#&=é", "c.db"), ("a%3Fb", "d.db")],
)
def test_a_store_lies_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    uri = store_uri(f"sqlite:///{file}?timeout=30")
    path = sqlite_path(uri)
    assert path is not None
    assert path.resolve() == folder / file
    assert store_uri(uri) == uri
    client = MlflowClient(uri)
    experiment = client.get_experiment(experiment_id(client, "x", uri))
    run = client.create_run(experiment.experiment_id)
    client.log_text(run.info.run_id, "kept", "a.txt")
    assert (folder / file).is_file()
    assert [path.read_text() for path in (folder / "mlartifacts").rglob("a.txt")] == ["kept"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    check_database(uri)


@pytest.mark.parametrize(
    "said", ["Detected out-of-date database schema (found x)", "Can't locate revision 'x'"]
)
def test_a_store_of_another_mlflow_is_told_with_ways_on(said: str) -> None:
    with (
        pytest.raises(UserError, match=r"made by another MLflow than .*\nBy a newer one: pip"),
        explained("sqlite:///mlflow.db"),
    ):
        raise MlflowException(said)


def test_a_place_elsewhere_that_no_address_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has neither \? nor % in it\. Run in that folder, or set"):
        store_uri(f"sqlite:///{tmp_path}/a%3Fb/mlflow.db")


@pytest.mark.parametrize("most", [VALUES_AT_ONCE, 20])
def test_histories_of_many_runs_are_those_of_each(
    store: Path, server: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usseg_ray.tracking.store.VALUES_AT_ONCE", most)
    monkeypatch.setattr("usseg_ray.tracking.store.RUNS_AT_ONCE", 4)
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
    monkeypatch.setattr("usseg_ray.tracking.store._BULK", "/ajax-api/2.0/mlflow/no-such-question")
    client = MlflowClient(server)
    ids = [client.create_run("0").info.run_id for _ in range(3)]
    for run in ids:
        client.log_metric(run, "loss", 0.5, step=1)
    assert histories(client, ids, "loss") == {run: {1: 0.5} for run in ids}
