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

HOME = PROJECT / ".gate" / "mutation"
FIRST = ("scoring.metrics", "scoring.significance", "scoring.label_free", "ops.kmeans")
SURVIVED, WAITS = "survived", "not checked"

_CPU = "where tests run, all is on the CPU"
_FIRST_ROW = "of both rows, which are equal, the first is looked at"
_TAIL = "the quantile of the other tail, squared"
_INDEX = "numbers of classes and counts are whole in every type that NumPy picks on 64 bits"

EXPLAINED = {
    "class_of = np.full(confusion.shape[0], -1, dtype=None)": _INDEX,
    "class_of = np.full(confusion.shape[0], -1, )": _INDEX,
    "hits = np.zeros(confusion.shape[1], dtype=None)": _INDEX,
    "hits = np.zeros(confusion.shape[1], )": _INDEX,
    "is_thing = np.array([name in things for name in classes], dtype=None)": "truths are bool",
    "is_thing = np.array([name in things for name in classes], )": "truths are bool",
    "images = torch.arange(len(labels), device=None)[:, None, None] * num_clusters": _CPU,
    "images = torch.arange(len(labels), )[:, None, None] * num_clusters": _CPU,
    "valid = (labels >= 0) & (labels <= num_classes) & (labels != ignore_index)": (
        "pixels of the label C are put into the column of those that do not count, whatever it says"
    ),
    "whole = np.ones((2, num_images))": _FIRST_ROW,
    "scores = np.array([_miou(counts, np.ones((2, num_images)))[0] for counts in runs])": (
        _FIRST_ROW
    ),
    "if difference.low is None and difference.high is None:": "both are known, or none is",
    "images = max(0.0, half**2 - float(half_width(0.0, 3, one, other)) ** 2)": (
        "a variance of nothing, of however many images"
    ),
    "share = variances[1] / spread if spread > 0 else 1.0": "freedom takes both shares alike",
    "share = variances[0] / spread if spread > 0 else 2.0": "it multiplies a spread of nothing",
    "share = sides[0] / np.where(spread > 0, spread, 2.0)": "without a spread no side has one",
    "by_seeds = stdtrit(freedom, 1 - (1 + CONFIDENCE) / 2) ** 2 * spread / count": _TAIL,
    "upper = 1 - (1 + CONFIDENCE) / 2": _TAIL,
    "if images + by_seeds <= difference.mean**2:": "two sums of squares of measured numbers",
    "weights = times.astype(None)": "NumPy takes it for float64",
    "if len(confusion) < confusion.shape[1]:": "with K = C no cluster is left over to be merged",
}
"""Changed lines that no test can tell from what they were, and why."""


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
    """Shows the line that a mutant has in place of another."""
    lines = mutmut("show", f"usseg_ray.{mutant}").splitlines()
    return " ".join(line[1:].strip() for line in lines if re.match(r"\+(?!\+\+)", line))


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
    left = {name: line for name, line in survivors.items() if line not in EXPLAINED}
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
