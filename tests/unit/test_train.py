"""The options of `train`: those of a sweep's that a single run has."""

from typing import Any

import pytest
from typer.testing import CliRunner

from usseg_ray.core.errors import UserError
from usseg_ray.sweeps.request import Request
from usseg_ray.train import app


def launched(monkeypatch: pytest.MonkeyPatch, options: str) -> tuple[Any, ...]:
    """Runs the command up to where a run would begin."""
    calls: list[tuple[Any, ...]] = []

    def launch(*arguments: Any, dry_run: bool) -> None:
        calls.append((*arguments, dry_run))

    monkeypatch.setattr("usseg_ray.sweeps.launch.launch", launch)
    done = CliRunner().invoke(app, options.split())
    if done.exception is not None:
        raise done.exception
    (call,) = calls
    return call


def test_one_run_is_one_trial_without_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Request(methods={"acseg": None}, assigned={}, num_samples=1, finalists=1, seeds=1)
    assert launched(monkeypatch, "") == (expected, None, None, False)


def test_options_reach_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--data a-set --preset hp-cityscapes --set method.dim=8 --seed 3 --tracking-uri x"
    request, out, resume, dry_run = launched(monkeypatch, f"{options} --out there --dry-run")
    assert (out, resume, dry_run) == ("there", None, True)
    assert request == Request(
        methods={"hp": None},
        data="a-set",
        preset="hp-cityscapes",
        assigned={"seed": 3, "method.dim": 8},
        num_samples=1,
        finalists=1,
        seeds=1,
        tracking_uri="x",
    )
    assert launched(monkeypatch, "--resume earlier") == (None, None, "earlier", False)


def test_several_methods_are_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"usseg_ray\.tune --method acseg,kmeans"):
        launched(monkeypatch, "--method acseg,kmeans")
