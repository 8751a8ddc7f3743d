"""The options of `train`: those of a sweep's that a single run has."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.places import make_places
from usseg_ray.core.errors import UserError
from usseg_ray.features.presets import backbone_settings
from usseg_ray.sweeps.request import Request
from usseg_ray.train import app


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_places(tmp_path, monkeypatch)


def launched(monkeypatch: pytest.MonkeyPatch, options: str) -> tuple[Any, ...]:
    """Runs the command up to where a run would begin."""
    calls: list[tuple[Any, ...]] = []

    def launch(*arguments: Any, dry_run: bool, keys: bool) -> None:
        calls.append((*arguments, dry_run, keys))

    monkeypatch.setattr("usseg_ray.sweeps.launch.launch", launch)
    done = CliRunner().invoke(app, options.split())
    if done.exception is not None:
        raise done.exception
    (call,) = calls
    return call


def test_one_run_is_one_trial_without_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Request(methods={"acseg": None}, assigned={}, num_samples=1, finalists=1, seeds=1)
    assert launched(monkeypatch, "") == (expected, None, None, False, False)


def test_options_reach_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--data a-set --preset hp-cityscapes --set method.dim=8 --seed 3 --tracking-uri x"
    options += " --out there --dry-run --keys"
    request, out, resume, *printed = launched(monkeypatch, options)
    assert (out, resume, printed) == ("there", None, [True, True])
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
    assert launched(monkeypatch, "--resume earlier") == (None, None, "earlier", False, False)


def test_a_backbone_is_assigned_below_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, *_ = launched(monkeypatch, "--backbone dino_b8 --set backbone.note=mine")
    assert asked.assigned == backbone_settings("dino_b8") | {"backbone.note": "mine"}
    with pytest.raises(UserError, match="did you mean 'dino_b8'"):
        launched(monkeypatch, "--backbone dino_b7")


def test_several_methods_are_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"usseg_ray\.tune --method acseg,kmeans"):
        launched(monkeypatch, "--method acseg,kmeans")
