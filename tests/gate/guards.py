"""`python -m tests.gate.guards`: promises, each taken back in a copy; its test must turn red."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.conftest import PROJECT

COPIED = ("usseg_ray", "tests", "search_spaces", "docs", "pyproject.toml", "README.md", "Makefile")


class Guard(NamedTuple):
    """A promise of the code.

    Attributes:
        name: What is promised.
        file: Where it is kept.
        line: What keeps it; stands there once.
        reversed: What stands in its place in the copy.
        test: What must notice.
    """

    name: str
    file: str
    line: str
    reversed: str
    test: str


GUARDS = (
    Guard(
        "a method is never given labels",
        "usseg_ray/core/types.py",
        '    saliency: Float[Tensor, "B h w"] | None = None\n',
        '    saliency: Float[Tensor, "B h w"] | None = None\n    labels: Tensor | None = None\n',
        "tests/unit/core/test_types.py",
    ),
    Guard(
        "pixels without a label never count",
        "usseg_ray/scoring/metrics.py",
        " & (labels != ignore_index)\n",
        "\n",
        "tests/unit/scoring/test_metrics.py",
    ),
    Guard(
        "a file is whole, or what it was",
        "usseg_ray/core/files.py",
        "        unfinished.replace(folder / name)\n",
        "        (folder / name).write_bytes(unfinished.read_bytes())\n",
        "tests/unit/test_run_files.py",
    ),
    Guard(
        "no file is unpickled",
        "usseg_ray/models/official/tensors.py",
        "weights_only=True",
        "weights_only=False",
        "tests/unit/models/official/test_tensors.py",
    ),
    Guard(
        "a record of another sum is not believed",
        "usseg_ray/core/records.py",
        "        raise _OtherSumError\n",
        "        pass\n",
        "tests/unit/core/test_records.py",
    ),
    Guard(
        "a run has one driver",
        "usseg_ray/core/lock.py",
        "    while (file := _taken(path)) is None:\n",
        '    while (file := path.open("a")) is None:\n',
        "tests/unit/core/test_lock.py",
    ),
    Guard(
        "secrets are not told",
        "usseg_ray/core/errors.py",
        "        text = rule.sub(shown, text)\n",
        "        text = text if rule else shown\n",
        "tests/unit/core/test_errors.py",
    ),
)


def notices(guard: Guard, copy: Path) -> bool:
    """Takes a guard away in the copy, and says whether its test turns red for it."""
    path = copy / guard.file
    whole = path.read_text()
    path.write_text(whole.replace(guard.line, guard.reversed))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", guard.test],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(whole)
    return done.returncode == 1 and " failed" in done.stdout


def main() -> None:
    """Takes each away; ends with 1 where a test noticed nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            copied = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            copied(PROJECT / name, Path(folder, name))
        noticed = 0
        for guard in GUARDS:
            seen = notices(guard, Path(folder))
            noticed += seen
            print(f"{guard.name:<42} {'noticed' if seen else 'NOT NOTICED'} by {guard.test}")
    print(f"{len(GUARDS)} guards taken away, {noticed} noticed")
    sys.exit(int(noticed < len(GUARDS)))


if __name__ == "__main__":
    main()
