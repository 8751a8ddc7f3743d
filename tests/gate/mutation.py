"""`python -m tests.gate.mutation`: what of the numbers may be changed without a test turning red.

mutmut (extra `gate`, settings in `pyproject.toml`) changes the commit's `scoring` and `ops` in one
place at a time and runs the tests that reach it: all places of the modules in FIRST, and of the
others a sample under a fixed seed. It goes on where an earlier run was broken off, as long as
function and tests are what they were. What survives and is not in EXPLAINED is listed.
"""

import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from typing import Annotated

import typer

from tests.conftest import PROJECT
from tests.gate.explained import EXPLAINED, FUNCTIONS

HOME = PROJECT / ".gate" / "mutation"
FIRST = ("scoring.metrics", "scoring.significance", "scoring.label_free", "ops.kmeans")
SURVIVED, WAITS = "survived", "not checked"


def mutmut(*arguments: str) -> str:
    """Runs it on the copy of the commit; returns what it prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=HOME, check=False, stdout=subprocess.PIPE, text=True)
    return done.stdout


def lay_out() -> None:
    """Copies the commit that is checked out to where it is changed."""
    HOME.mkdir(parents=True, exist_ok=True)
    for old in HOME.iterdir():
        if old.name != "mutants":  # with what is known already
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    archive = ["git", "archive", "HEAD"]
    packed = subprocess.run(archive, cwd=PROJECT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=HOME, input=packed.stdout, check=True)


def ends() -> dict[str, str]:
    """Reads how each mutant has ended so far."""
    told = map(str.strip, mutmut("results", "--all", "true").splitlines())
    return dict(re.findall(r"^usseg_ray\.(\S+): (.+)$", "\n".join(told), re.M))


def change(mutant: str) -> str:
    """Shows the line that a mutant has in place of another, or a minus and the one it has not."""
    lines = mutmut("show", f"usseg_ray.{mutant}").splitlines()
    added = [line[1:].strip() for line in lines if re.match(r"\+(?!\+\+)", line)]
    gone = [f"-{line[1:].strip()}" for line in lines if re.match(r"-(?!--)", line)]
    return " ".join(added if added and added != [")"] else gone)


def main(
    sample: Annotated[int, typer.Option(min=0, envvar="MUTATION_SAMPLE")] = 200,
) -> None:
    """Mutates the modules in FIRST, and `sample` places of the others."""
    lay_out()
    mutmut("run", *(f"usseg_ray.{module}.*" for module in FIRST))
    others = sorted(name for name in ends() if not name.startswith(FIRST))
    drawn = random.Random(0).sample(others, min(sample, len(others)))
    mutmut("run", *(f"usseg_ray.{name}" for name in drawn))
    found = {name: end for name, end in ends().items() if end != WAITS}
    survivors = {name: change(name) for name, end in found.items() if end == SURVIVED}
    left = {
        name: line
        for name, line in survivors.items()
        if line not in EXPLAINED and name.rpartition("__mutmut")[0] not in FUNCTIONS
    }
    for name, line in left.items():
        print(f"{name}: {line}")
    for module in sorted({re.sub(r"\.x[_ǁ].*", "", name) for name in found}):
        counts = Counter(end for name, end in found.items() if name.startswith(f"{module}."))
        print(f"{module:<28}" + ", ".join(f"{n} {end}" for end, n in counts.most_common()))
    killed = sum(end != SURVIVED for end in found.values())
    print(
        f"{len(found)} mutants, {killed} noticed, {len(survivors) - len(left)} explained, "
        f"{len(left)} survived"
    )


if __name__ == "__main__":
    typer.run(main)
