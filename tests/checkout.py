"""What is checked out, as results are kept with it."""

import subprocess

from tests.conftest import PROJECT


def commit() -> str:
    """Names the commit; a plus behind it says that files were changed since."""
    said = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.check_output(said, cwd=PROJECT, text=True).strip()
