"""What the sweep's run says of its surroundings: an allow-list, and no secret."""

import os
import platform
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from usseg_ray.core.errors import UserError
from usseg_ray.tracking.store import (
    check_database,
    environment,
    experiment_id,
    explained,
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
