"""What `make gate` is made of: each part's command, and what of its output is kept."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

NOTHING_RAN = 75
"""Exit code of a part that could do nothing here: `EX_TEMPFAIL` of sysexits.h."""

PYTEST = r"^=* ?(\d+ (?:passed|failed).*?) ?=*$"


def always() -> str:
    """Asks for nothing."""
    return ""


def needs(program: str) -> Callable[[], str]:
    """Asks for a program."""
    return lambda: "" if shutil.which(program) else f"no {program} here"


def needs_python(version: str) -> Callable[[], str]:
    """Asks for an interpreter."""
    find = [sys.executable, "-m", "uv", "python", "find", "--no-python-downloads", version]

    def lack() -> str:
        found = subprocess.run(find, capture_output=True, check=False).returncode == 0
        return "" if found else f"no Python {version} here"

    return lack


def needs_gpu() -> str:
    """Asks for a CUDA device."""
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device here"


class Part(NamedTuple):
    """One of them.

    Attributes:
        name: By which it is run.
        about: What it does.
        command: In a shell, from the checkout's root.
        keeps: Pattern of the lines of output whose first group is its figures.
        lacks: Says what this machine has not, without which it is not run.
    """

    name: str
    about: str
    command: str
    keeps: str = PYTEST
    lacks: Callable[[], str] = always


def python(module: str) -> str:
    """Names a command of this very interpreter."""
    return f"{sys.executable} -m {module}"


def _fast(version: str, resolution: str, more: str = "") -> str:
    return (
        f"{sys.executable} -m tests.gate.versions --python {version} --resolution {resolution} "
        "-- -q -n 2 --dist worksteal tests/unit/core tests/unit/settings tests/unit/ops "
        "tests/unit/scoring tests/unit/methods tests/unit/features tests/unit/data "
        "tests/unit/models tests/unit/export tests/contract tests/unit/test_tune.py "
        f"tests/unit/test_main.py {more}"
    )


PARTS: Sequence[Part] = (
    Part("static", "style, types, layers", "make static", r"^(== .*ended.*|== static \w+ in .*)$"),
    Part("unit", "tests without a cluster", "make unit"),
    Part("ray", "tests on a local Ray and MLflow", "make ray"),
    Part("lengthy", "what those have no time for", "make lengthy"),
    Part("gpu", "tests on a GPU", python("pytest -q tests/gpu"), lacks=needs_gpu),
    Part("faults", "the fault matrix", python("tests.faults"), r"^(\d+ tries.*)$"),
    Part("fuzz", "inputs of no kind", python("tests.fuzz"), r"^(\d[\d,]* inputs.*)$"),
    Part(
        "mutation",
        "changed code that tests miss",
        python("tests.gate.mutation"),
        r"^(\d+ mutants.*)$",
    ),
    Part("guards", "guards taken away", python("tests.gate.guards"), r"^(\d+ guards.*)$"),
    Part(
        "coverage",
        "branches that tests without a cluster take",
        python(
            "pytest -q -n 2 --dist worksteal --cov=usseg_ray --cov-branch --cov-report=term "
            "tests/unit tests/contract tests/numerics tests/distributed"
        ),
        r"^TOTAL .*?(\d+%)$",
    ),
    Part("soak", "an hour of short sweeps", python("tests.gate.soak"), r"^(\d+ sweeps.*)$"),
    Part("trials", "200 trials in a process", python("tests.gate.trials"), r"^(\d+ trials.*)$"),
    Part("writers", "500 writers of metrics", python("tests.gate.writers"), r"^(\d+ writers.*)$"),
    Part("load", "`serve` under wrk", python("tests.gate.load"), r"^(.* answers.*)$", needs("wrk")),
    # Old packages call what their own, newer needs have deprecated.
    Part("oldest", "fast tests, oldest versions", _fast("3.11", "lowest-direct", "-W default")),
    Part("newest", "fast tests, newest versions", _fast("3.11", "highest")),
    *(
        Part(
            f"python{version.replace('.', '')}",
            f"fast tests, Python {version}",
            _fast(version, "highest"),
            lacks=needs_python(version),
        )
        for version in ("3.12", "3.13")
    ),
    Part(
        "audit",
        "known holes of what is installed",
        python("tests.gate.audit"),
        r"^(\d+ of \d+ packages.*)$",
    ),
)


def figures(part: Part, output: str) -> str:
    """Takes from a part's output what is kept of it."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", output)
    return "; ".join(re.findall(part.keeps, plain, re.M)[-2:])
