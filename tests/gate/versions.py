"""`python -m tests.gate.versions --python 3.11 --resolution lowest-direct -- ARGUMENTS of pytest`.

Makes an environment of other versions, `.gate/NAME`, by uv, and runs tests in it.
"""

import subprocess
import sys
from typing import Annotated

import typer

from tests.conftest import PROJECT


def main(
    arguments: list[str],
    python: Annotated[str, typer.Option()] = "3.11",
    resolution: Annotated[str, typer.Option()] = "highest",
) -> None:
    """Installs the package, its tests' tools, and runs them."""
    home = PROJECT / ".gate" / f"{python}-{resolution}"
    uv = [sys.executable, "-m", "uv", "--quiet", "--no-python-downloads"]
    here = str(home / "bin" / "python")
    # Compiled as pip does it: processes of the tests would else compile what they import anew.
    install = [*uv, "pip", "install", "--compile-bytecode", "--python", here]
    install += ["--resolution", resolution]
    for command in (
        [*uv, "venv", "--allow-existing", "--python", python, str(home)],
        [*install, "--upgrade", "-e", ".[dev]"],
        [here, "-m", "pytest", *arguments],
    ):
        done = subprocess.run(command, cwd=PROJECT, check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    typer.run(main)
