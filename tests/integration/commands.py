"""The commands as users run them: in a process of their own, or in this one, which is quicker."""

import importlib
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from usseg_ray.core import cli


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def apart(command: str, *arguments: str | Path, folder: Path | None = None) -> Ended:
    """Runs a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"usseg_ray.{command}", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def here(command: str, *arguments: str | Path, folder: Path | None = None) -> Ended:
    """Runs a command in this process, which has loaded torch and joined a cluster already."""
    module = importlib.import_module(f"usseg_ray.{command}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"usseg_ray.{command}.__main__")
    terminated = signal.getsignal(signal.SIGTERM)
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        if folder is not None:
            patch.chdir(folder)
        patch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.run(module.app)
    signal.signal(signal.SIGTERM, terminated)
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())
