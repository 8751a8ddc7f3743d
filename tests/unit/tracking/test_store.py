"""What the sweep's run says of its surroundings: an allow-list, and no secret."""

import os
import platform
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from usseg_ray.core.errors import UserError
from usseg_ray.tracking.store import environment, explained, store_uri


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


def test_a_folder_that_no_address_can_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photos #1", "photos of 2024?"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "photos #1")
    assert store_uri("sqlite:///mlflow.db").endswith("photos #1/mlflow.db")
    monkeypatch.chdir(tmp_path / "photos of 2024?")
    with pytest.raises(UserError, match=r"ends at a '\?'\. Work in a folder without one"):
        store_uri("sqlite:///mlflow.db")


@pytest.mark.parametrize(
    "said", ["Detected out-of-date database schema (found x)", "Can't locate revision 'x'"]
)
def test_a_store_of_another_mlflow_is_told_with_ways_on(said: str) -> None:
    with (
        pytest.raises(UserError, match=r"made by another MLflow than .*\nBy a newer one: pip"),
        explained("sqlite:///mlflow.db"),
    ):
        raise MlflowException(said)
