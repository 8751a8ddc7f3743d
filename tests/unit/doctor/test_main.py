"""The command: exit codes that scripts can use, JSON, and a line to mend each fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.filterwarnings("ignore")


def doctor(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = ("RAY_", "MLFLOW_", "USSEG_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return subprocess.run(
        [sys.executable, "-m", "usseg_ray.doctor", *arguments],
        env=clean | {"HOME": str(home), "COLUMNS": "160"} | variables,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_faults_of_machine_and_file_make_exit_code_1_and_json(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret-of-the-test")
    token.chmod(0o644)
    done = doctor(tmp_path, "--json", "cluster.yaml", RAY_AUTH_MODE="token")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    where = {one["where"] for one in found if one["level"] == "error"}
    assert {str(token), "cluster.yaml: metadata.image"} <= where
    assert all(one["fix"] for one in found if one["level"] != "ok")
    assert "secret-of-the-test" not in done.stdout


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = doctor(tmp_path, "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml: no such file" in done.stderr


def test_findings_are_shown_in_any_encoding(tmp_path: Path) -> None:
    done = doctor(tmp_path, "cluster.yaml", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 1  # its values are to be filled in
    assert done.stderr == ""
    assert "metadata.image" in done.stdout
