import io
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from rich.box import HEAVY_HEAD
from rich.markup import escape
from rich.table import Table

import usseg_ray
from tests.conftest import PROJECT
from usseg_ray import __main__, __version__, methods
from usseg_ray.core import cli
from usseg_ray.core.cli import repeatable

COMMANDS = sorted(name.replace("-", "_") for name in __main__.COMMANDS)


PROGRAM = """
import os
import sys
from rich.box import HEAVY
from rich.panel import Panel
from usseg_ray.core.cli import console, make_app, run
from usseg_ray.core.errors import UserError

app = make_app()

@app.command()
def main(kind: str) -> None:
    if kind == "user":
        raise UserError("expected [low, high], got [3, 1] in [/x/y.yaml]")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "full":
        with open("/dev/full", "w") as file:
            file.write("x" * 10_000)
    if kind == "read-only":
        os.mkdir("/sys/runs")
    if kind == "bug":
        raise RuntimeError("a bug")
    if kind == "box":
        console.print(Panel("… ✓", box=HEAVY, safe_box=False))
    print("done")

sys.argv = ["program", *sys.argv[1:]]
run(app)
"""


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=PROJECT
    )


def test_a_users_mistake_is_one_line_and_exit_code_2() -> None:
    done = called("-c", PROGRAM, "user")
    assert done.returncode == 2
    # Brackets in a message are the message's own.
    assert done.stderr == "Error: expected [low, high], got [3, 1] in [/x/y.yaml]\n"
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and /sys are Linux's")
@pytest.mark.parametrize(
    ("kind", "says"),
    [("full", "No space left on device"), ("read-only", "/sys/runs: ")],
)
def test_a_place_that_cannot_be_written_is_two_lines_and_exit_code_2(kind: str, says: str) -> None:
    done = called("-c", PROGRAM, kind)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 2


def test_ctrl_c_is_no_traceback() -> None:
    done = called("-c", PROGRAM, "interrupt")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_a_bug_keeps_its_traceback() -> None:
    done = called("-c", PROGRAM, "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug" in done.stderr


def test_a_terminal_that_lacks_a_letter_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = called("-c", PROGRAM, "box")
    assert (done.returncode, done.stderr) == (0, "")
    assert "? ?" in done.stdout
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize(
    ("encoding", "spread"), [("ascii", "1.5 +- 0.5"), ("latin-1", "1.5 ± 0.5"), ("utf-8", "± 0.5")]
)
def test_a_deviation_is_legible_in_any_encoding(encoding: str, spread: str) -> None:
    written = io.BytesIO()
    said = io.TextIOWrapper(written, encoding)  # which refuses what it cannot write
    terminal = cli.Terminal(file=said, width=80)
    grid = Table("score", box=HEAVY_HEAD)
    grid.add_row("1.5 ± 0.5")
    terminal.print(grid)
    terminal.print("[bold]it leads: 1.5 ± 0.5[/]")
    said.flush()
    text = written.getvalue().decode(encoding)
    assert text.count(spread) == 2
    assert len({len(line) for line in text.splitlines()[:-1]}) == 1


@pytest.mark.parametrize("command", [*COMMANDS, "__main__"])
def test_help_is_whole_in_a_narrow_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = called("-m", f"usseg_ray.{command}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 60
    # Nothing is cut, and no word is broken at its hyphen.
    assert not [line for line in lines if "…" in line or re.search(r"\w-$", line)]


def test_success() -> None:
    done = called("-c", PROGRAM, "fine")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_version(command: str) -> None:
    from typer.testing import CliRunner

    module = import_module(f"usseg_ray.{command}")
    if hasattr(module, "__path__"):
        module = import_module(f"{module.__name__}.__main__")
    app = module.app
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"usseg_ray {__version__}\n")


def test_a_mistake_in_a_real_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from usseg_ray.core.cli import run
    from usseg_ray.train import app

    options = ["--dry-run", "--out", str(tmp_path), "--set", "method.gama=1"]
    monkeypatch.setattr(sys, "argv", ["train", *options])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            run(app)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert ended.value.code == 2
    expected = "Error: Unknown key: 'method.gama'; did you mean 'method.gamma'?\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_methods_that_there_are() -> None:
    assert sorted(method.name for method in methods.METHODS) == cli.METHODS


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


@pytest.mark.parametrize("text", ["[/red] closed", "[bold]shown[/]", "\x1b]0;t\x07:car:", "[red"])
def test_a_name_in_a_line_neither_ends_a_command_nor_acts(text: str) -> None:
    said = io.StringIO()
    terminal = cli.Terminal(file=said, width=80, emoji=False, force_terminal=True)
    terminal.print(f"[bold]{escape(text)}[/]", highlight=False)
    grid = Table("[/x]")
    grid.add_row(escape(text))
    terminal.print(grid)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    assert plain.count(text.replace("\x1b", "\\x1b").replace("\x07", "\\x07")) == 2
    assert not set(plain) & {"\x1b", "\x07"}


def test_markup_that_is_none_is_shown_as_it_is() -> None:
    said = io.StringIO()
    cli.Terminal(file=said, width=80).print("a [/x] b")
    assert said.getvalue() == "a [/x] b\n"


def test_a_refusal_shows_what_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._refuse("\x1b[2J[/x]: no such class")
    assert capsys.readouterr().err == "Error: \\x1b[2J[/x]: no such class\n"


def test_a_bar_says_how_many_images_and_how_many_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(cli, "console", cli.Terminal(file=written, force_terminal=True, width=90))
    with cli.image_bar("Looking") as on_progress:
        on_progress(3, 1, 8)
    assert "Looking" in written.getvalue()
    assert "3/8 images, 1 bad" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
