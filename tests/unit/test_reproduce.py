"""The options of `reproduce`: what is refused before torch, and what a run is asked."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.places import make_places
from usseg_ray.core.errors import UserError
from usseg_ray.reproduce import app


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_places(tmp_path, monkeypatch)


def asked(monkeypatch: pytest.MonkeyPatch, options: str) -> tuple[tuple[Any, ...], bool]:
    """Runs the command up to where the table would begin."""
    calls: list[tuple[tuple[Any, ...], bool]] = []

    def reproduce_table(*arguments: Any, dry_run: bool) -> None:
        calls.append((arguments, dry_run))

    where = "usseg_ray.sweeps.published.reproduction.reproduce_table"
    monkeypatch.setattr(where, reproduce_table)
    done = CliRunner().invoke(app, options.split())
    if done.exception is not None:
        raise done.exception
    (call,) = calls
    return call


def test_options_reach_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    options = "cityscapes27 --methods stego,cause-tr --data a-set --seeds 2 --device cpu"
    (requests, *rest), dry = asked(monkeypatch, f"{options} --set train.epochs=1 --dry-run")
    assert (rest, dry) == (["cityscapes27", None, None], True)
    assert list(requests) == ["stego-cityscapes", "cause-tr-cityscapes"]
    request = requests["cause-tr-cityscapes"]
    assert (request.preset, request.data, request.seeds) == ("cause-tr-cityscapes", "a-set", 2)
    assert request.assigned.items() >= {"resources.device": "cpu", "train.epochs": 1}.items()


def test_a_table_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, "--resume earlier") == ((None, None, None, "earlier"), False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", r"name a set \(cocostuff27, cityscapes27, potsdam3\), or --resume RUN"),
        ("potsdam3 --resume earlier", "one of the two"),
        ("cityscapes", r"'cityscapes'; did you mean 'cityscapes27'\?"),
        ("potsdam3 --methods acseg --data a-set", "acseg: no settings are published for potsdam3"),
        ("potsdam3 --backbone dino_s9 --data a-set", r"did you mean 'dino_s8'\?"),
        ("potsdam3", r"potsdam3: no prepared set .*\.prepare --dataset potsdam3 --source FOLDER"),
        ("--resume later", "later: no such run"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        asked(monkeypatch, options)
