"""The options of `fit`; what it does: integration/test_fit.py."""

from typing import Any

import pytest
from typer.testing import CliRunner

from usseg_ray.core.errors import UserError
from usseg_ray.fit import app


def asked(monkeypatch: pytest.MonkeyPatch, options: str) -> tuple[str | None, dict[str, Any]]:
    """Runs the command up to where fitting would begin."""
    calls: list[tuple[str | None, dict[str, Any]]] = []
    monkeypatch.setattr(
        "usseg_ray.sweeps.own.fitting.fit",
        lambda source, **options: calls.append((source, options)),
    )
    done = CliRunner().invoke(app, options.split())
    if done.exception is not None:
        raise done.exception
    (call,) = calls
    return call


def test_nothing_but_the_folder_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = asked(monkeypatch, "photos")
    assert source == "photos"
    assert options["methods"] == ("kmeans", "acseg")
    assert (options["num_samples"], options["seeds"], options["assigned"]) == (4, 3, {})
    assert options["out"] is options["resume"] is options["backbone"] is None


def test_what_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = asked(
        monkeypatch, "--resume first --method kmeans --set train.epochs=2 --device cpu"
    )
    assert (source, options["resume"], options["methods"]) == (None, "first", ("kmeans",))
    assert options["assigned"] == {"train.epochs": 2, "resources.device": "cpu"}
    with pytest.raises(UserError, match="kmean"):
        asked(monkeypatch, "photos --method kmean")
