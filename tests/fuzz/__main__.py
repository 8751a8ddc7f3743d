"""`python -m tests.fuzz [TEST ...] [--minutes 10]`: each test for that long, guided by coverage.

Atheris (extra `gate`) drives the very tests that a run of all tests gives some hundred examples, as
many at a time as there are cores. A test ends at the first exception that is not the product's own,
at an input that takes a minute, or one that takes 4 GiB. Inputs that reached new code are kept in
`.gate/corpus`, and begin the next run. What a test came to is kept in `.gate/fuzz.json` with its
commit; one that has had its time and found nothing is not run again.
"""

import ast
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.progress import track

from tests.checkout import commit
from usseg_ray.core.files import write_whole

FOLDER = Path(__file__).parent
CORPUS, RESULTS = Path(".gate", "corpus"), Path(".gate", "fuzz.json")
SLOWEST_S = 60
MOST_MB = 4096


class Fuzzed(NamedTuple):
    """What became of one test.

    Attributes:
        test: Its name.
        inputs: How many it was given.
        cpu_s: What they took.
        error: The last line of what it ended with; empty where it found nothing.
        commit: Of what; a plus behind it where files were changed since.
    """

    test: str
    inputs: int
    cpu_s: float
    error: str
    commit: str


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
    error = _error(ended) if ended.returncode else ""
    return Fuzzed(test, int(inputs), float(cpu_s), error, commit())


def load() -> dict[str, Fuzzed]:
    """Reads what earlier runs came to."""
    if not RESULTS.exists():
        return {}
    return {test: Fuzzed(*told) for test, told in json.loads(RESULTS.read_text()).items()}


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
    again: Annotated[bool, typer.Option(help="Those too that have had their time.")] = False,
) -> None:
    """Gives the fuzz tests inputs that are guided by coverage."""
    known, found = names(), {} if again else load()
    if unknown := set(tests or ()) - set(known):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(known)}.")
    chosen = tests or list(known)
    done = {test for test, one in found.items() if one.cpu_s >= 60 * minutes and not one.error}
    with ThreadPoolExecutor(os.cpu_count()) as cores:
        left = [test for test in chosen if test not in done]
        running = [cores.submit(fuzz, test, known[test], minutes) for test in left]
        for ended in track(as_completed(running), "Fuzzing", total=len(running)):
            one = ended.result()
            found[one.test] = one
            write_whole(RESULTS, json.dumps(found, indent=1))
            print(f"{one.test:<24} {one.inputs:>9,} inputs {one.cpu_s:>6.0f} CPU s  {one.error}")
    told = [found[test] for test in chosen]
    cpu_min, errors = sum(one.cpu_s for one in told) / 60, sum(bool(one.error) for one in told)
    print(
        f"{sum(one.inputs for one in told):,} inputs to {len(told)} tests in {cpu_min:.0f} CPU "
        f"minutes, {errors} foreign exceptions (at {', '.join(sorted({o.commit for o in told}))})"
    )
    raise typer.Exit(int(errors > 0))


if __name__ == "__main__":
    typer.run(main)
