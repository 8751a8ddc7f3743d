"""What the sweep's run says of its surroundings: an allow-list, and no secret."""

import os
import platform
from pathlib import Path

import pytest

from usseg_ray.tracking.store import environment


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
