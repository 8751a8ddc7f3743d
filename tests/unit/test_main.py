"""The console: every command by one name, none imported before it is called."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from usseg_ray.__main__ import COMMANDS, app
from usseg_ray.core.cli import CONSOLE, repeatable

PROGRAM = """
import json, sys, time
start = time.process_time()
sys.argv = ["usseg-ray", "--help"]
from usseg_ray.__main__ import console
try:
    console()
except SystemExit:
    pass
told = [time.process_time() - start, sorted(set(sys.modules) & HEAVY)]
print(json.dumps(told), file=sys.stderr)
"""


def test_the_list_is_quick_and_imports_no_command() -> None:
    heavy = {"torch", "ray", "mlflow", "numpy", "pydantic", "usseg_ray.tune", "usseg_ray.fit"}
    program = PROGRAM.replace("HEAVY", repr(heavy))
    ended = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    took, loaded = min(json.loads(done.stderr) for done in ended)
    assert loaded == []
    assert took < 0.5
    assert all(command in ended[0].stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"{command} [OPTIONS]" in shown.stdout


def test_every_command_module_is_listed() -> None:
    package = Path(importlib.import_module("usseg_ray").__file__ or "").parent
    files = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__", "api"}
    rooms = {path.parent.name for path in package.glob("*/__main__.py")}
    assert files | rooms == set(COMMANDS)


def test_without_a_command_it_prints_what_there_is() -> None:
    shown = CliRunner().invoke(app, [])
    assert shown.exit_code == 0
    assert "Photographs to masks" in shown.stdout
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


def test_a_shell_is_told_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_USSEG_RAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "usseg-ray fi")
    monkeypatch.setenv("COMP_CWORD", "1")
    shown = CliRunner().invoke(app, [], prog_name=CONSOLE)
    assert "fit" in shown.stdout.split()


def test_a_command_is_told_as_it_was_called() -> None:
    assert repeatable(["/usr/bin/usseg-ray", "fit", "my photos"]) == "usseg-ray fit 'my photos'"
    package = importlib.import_module("usseg_ray.__main__").__file__
    assert repeatable([str(package), "tune"]) == "python -m usseg_ray tune"
    assert repeatable(["/usr/bin/usseg-ray", "tune", "--resume", "x"]) == ""
