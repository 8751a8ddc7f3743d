"""The command that repeats a sweep is told whole, but for its secrets."""

import shlex
from pathlib import Path

import pytest

import usseg_ray
from usseg_ray.command import repeatable

TUNE = str(Path(usseg_ray.__file__).parent / "tune.py")


def test_a_command_is_told_so_that_a_shell_reads_it_back() -> None:
    arguments = ["--method", "acseg,kmeans", "--set", "backbone.mean=[0.5, 0.5, 0.5]", "--seed=3"]
    told = repeatable([TUNE, *arguments])
    assert shlex.split(told) == ["python", "-m", "usseg_ray.tune", *arguments]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://me:pass/w0rd@host:5432/runs", "postgresql://***@host:5432/runs"),
        ("http://token123@host:5000", "http://***@host:5000"),
        ("mysql://host/runs?password=abc&timeout=3", "mysql://host/runs?password=***&timeout=3"),
        ("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db"),
        ("s3://bucket/folder@v2", "s3://bucket/folder@v2"),
    ],
)
def test_secrets_in_addresses_are_left_out(address: str, told: str) -> None:
    for arguments in (["--tracking-uri", address], [f"--tracking-uri={address}"]):
        found = shlex.split(repeatable([TUNE, *arguments]))
        assert found[-1].removeprefix("--tracking-uri=") == told


@pytest.mark.parametrize(
    "argv", [[TUNE, "--resume", "a"], [TUNE, "--resume=a"], ["/usr/bin/pytest", "-q"], ["", "x"]]
)
def test_what_would_not_repeat_a_sweep_is_not_told(argv: list[str]) -> None:
    assert repeatable(argv) == ""
