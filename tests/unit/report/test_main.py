"""The command writes what is asked for, and says what is wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reported import (
    OTHER_STAMP,
    TRIALS_TABLE,
    Page,
)
from usseg_ray.core.cli import errors
from usseg_ray.core.errors import UserError
from usseg_ray.report import __main__
from usseg_ray.sweeps.request import Request
from usseg_ray.tracking import ledger
from usseg_ray.tracking.spool import SPOOL_FILE


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return CliRunner()


def test_the_command_writes_a_page_of_the_sweep_asked_for(runner: CliRunner, uri: str) -> None:
    arguments = ["--tracking-uri", uri, "--sweep", "first", "--out", "new/page.html"]
    assert runner.invoke(__main__.app, arguments).exit_code == 0
    assert TRIALS_TABLE in [t.caption for t in Page(Path("new/page.html").read_text()).tables]
    table = runner.invoke(__main__.app, ["--tracking-uri", uri, "--format", "csv"])
    assert OTHER_STAMP in table.output
    assert [path.name for path in Path().iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "There is no MLflow store at"),
        (["a", "--sweep", "b"], "RUNS are ranked from their folders"),
        (["--protocol", "stego-320"], "are for RUNS"),
        (["--tracking-uri", "STORE", "--experiment", "none"], "has no experiment 'none'; it has"),
    ],
)
def test_mistakes_are_told(runner: CliRunner, uri: str, arguments: list[str], words: str) -> None:
    asked = [uri if argument == "STORE" else argument for argument in arguments]
    found = runner.invoke(__main__.app, asked)
    assert isinstance(found.exception, UserError)
    assert words in str(found.exception)
    assert not list(Path().iterdir())


def test_what_waits_is_taken_to_the_store_with_its_password(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, home, asked = "http://anna:HUNTER@lab:5000", Path("runs", "first"), list[str | None]()
    home.mkdir(parents=True)
    Request(methods={"kmeans": None}, assigned={}, key="k", tracking_uri=where).save(home)
    (home / SPOOL_FILE).touch()
    monkeypatch.setattr(ledger, "deliver", lambda uri, *_: asked.append(uri))
    said: list[str] = []
    monkeypatch.setattr(errors, "say", said.append)
    runner.invoke(__main__.app, ["first"])
    assert "set MLFLOW_TRACKING_URI to the whole address" in said[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    runner.invoke(__main__.app, ["first"])
    assert asked == [where]
