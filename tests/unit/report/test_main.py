"""The command writes what is asked for, and says what is wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reported import (
    OTHER_STAMP,
    TRIALS_TABLE,
    Page,
)
from usseg_ray.core.errors import UserError
from usseg_ray.report import __main__


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
