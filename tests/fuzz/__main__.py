"""`python -m tests.fuzz [TEST ...] [--minutes 10]`: each test for that long, guided by coverage.

Atheris (extra `gate`) drives the very tests that a run of all tests gives some hundred examples, as
many at a time as there are cores. A test ends at the first exception that is not the product's own,
at an input that takes a minute, or one that takes 4 GiB. Inputs that reached new code are kept in
`.gate/corpus`, and begin the next run.
"""

import ast
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.progress import track

FOLDER = Path(__file__).parent
CORPUS = Path(".gate", "corpus")
SLOWEST_S = 60
MOST_MB = 4096


class Fuzzed(NamedTuple):
    """What became of one test.

    Attributes:
        test: Its name.
        inputs: How many it was given.
        cpu_s: What they took.
        error: The last line of what it ended with; empty where it found nothing.
    """

    test: str
    inputs: int
    cpu_s: float
    error: str


def names() -> dict[str, str]:
    """Lists the tests, with the module of each."""
    found = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name.removeprefix("test_")] = f"tests.fuzz.{path.stem}"
    return found


def fuzz(test: str, module: str, minutes: float) -> Fuzzed:
    """Runs one test for some minutes of one core."""
    corpus = CORPUS / test
    corpus.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.driven", module, f"test_{test}", str(60 * minutes)),
            *(f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MB}", "-max_len=4096"),
            *(f"-artifact_prefix={corpus}-", str(corpus)),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    told = re.findall(r"^(\d+) inputs in ([\d.]+) s$", ended.stdout, re.M)
    inputs, cpu_s = told[-1] if told else (0, 0)
    return Fuzzed(test, int(inputs), float(cpu_s), _error(ended) if ended.returncode else "")


def _error(ended: subprocess.CompletedProcess[str]) -> str:
    lines = (ended.stdout + ended.stderr).splitlines()
    told = [
        line for line in lines if re.match(r"\w+(\.\w+)*(Error|Exception)\b|==\d+== ERROR", line)
    ]
    return (told or lines or [f"exit status {ended.returncode}"])[0][:200]


def main(
    tests: Annotated[list[str] | None, typer.Argument(help="Names of tests; all of them.")] = None,
    minutes: Annotated[
        float, typer.Option(help="Of one core, for each.", min=0.01, envvar="FUZZ_MINUTES")
    ] = 10,
) -> None:
    """Gives the fuzz tests inputs that are guided by coverage."""
    known = names()
    if unknown := set(tests or ()) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(known)}.")
    chosen = tests or list(known)
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as cores:
        running = [cores.submit(fuzz, test, known[test], minutes) for test in chosen]
        for ended in track(as_completed(running), "Fuzzing", total=len(running)):
            one = ended.result()
            found.append(one)
            print(f"{one.test:<24} {one.inputs:>9,} inputs {one.cpu_s:>6.0f} CPU s  {one.error}")
    cpu_min, errors = sum(one.cpu_s for one in found) / 60, sum(bool(one.error) for one in found)
    print(
        f"{sum(one.inputs for one in found):,} inputs to {len(found)} tests in {cpu_min:.0f} CPU "
        f"minutes, {errors} foreign exceptions"
    )
    raise typer.Exit(int(any(one.error for one in found)))


if __name__ == "__main__":
    typer.run(main)
