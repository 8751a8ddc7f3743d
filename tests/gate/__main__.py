"""`make gate`, or `python -m tests.gate [PART ...]`: all that is known of a commit, part by part.

What a part came to is kept in `results.json` beside this file, with its date and commit, as soon as
it has ended; a part that has passed at this commit is not run again. Afterwards the table in
`docs/reliability.md` is written anew.
"""

import json
import subprocess
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from tests.checkout import commit
from tests.conftest import PROJECT
from tests.gate.parts import NOTHING_RAN, PARTS, Part, figures
from usseg_ray.core.files import write_whole

RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = PROJECT / "docs" / "reliability.md"
BEGIN, END = "<!-- gate: written by make gate -->", "<!-- gate: end -->"
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


class Result(NamedTuple):
    """What a part came to.

    Attributes:
        ended: One of the three words.
        figures: What its output said, or why it was not run.
        seconds: How long it took.
        commit: Of what; a plus behind it where files were changed since.
        date: When it ended, ISO.
    """

    ended: str
    figures: str
    seconds: int
    commit: str
    date: str


def load() -> dict[str, Result]:
    """Reads what is kept."""
    if not RESULTS.exists():
        return {}
    return {name: Result(**told) for name, told in json.loads(RESULTS.read_text()).items()}


def save(results: dict[str, Result]) -> None:
    """Keeps results in the order of the parts."""
    kept = {p.name: results[p.name]._asdict() for p in PARTS if p.name in results}
    write_whole(RESULTS, json.dumps(kept, indent=1) + "\n")


def run(part: Part) -> Result:
    """Runs a part; its output is seen here, and kept in `.gate`."""
    when, which = datetime.now(UTC).date().isoformat(), commit()
    if lack := part.lacks():
        return Result(NOT_RUN, lack, 0, which, when)
    log = PROJECT / ".gate" / f"{part.name}.log"
    log.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    shell = f"set -o pipefail; {part.command} 2>&1 | tee {log}"
    done = subprocess.run(["bash", "-c", shell], cwd=PROJECT, check=False)
    seconds = round(time.monotonic() - began)
    ended = {0: PASSED, NOTHING_RAN: NOT_RUN}.get(done.returncode, FAILED)
    return Result(ended, figures(part, log.read_text(errors="replace")), seconds, which, when)


def table(results: dict[str, Result]) -> str:
    """Shows what is known of every part."""
    lines = ["| Part | What | Ended | Figures | Seconds | Commit | Date |", "|" + "---|" * 7]
    for part in PARTS:
        found = results.get(part.name) or Result("never run", "", 0, "", "")
        row = (part.name, part.about, found.ended, found.figures, str(found.seconds or ""))
        lines.append(f"| {' | '.join((*row, found.commit, found.date))} |")
    return "\n".join(lines)


def write_table(results: dict[str, Result]) -> None:
    """Puts the table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_whole(DOCUMENT, f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


def age(found: Result) -> str:
    """Says how old a result is."""
    days = (datetime.now(UTC).date() - date.fromisoformat(found.date)).days
    return "today" if days == 0 else f"{days} days ago"


def main(
    parts: Annotated[list[str] | None, typer.Argument(help="Which; all of them.")] = None,
    again: Annotated[bool, typer.Option(help="Those too that passed at this commit.")] = False,
) -> None:
    """Runs what has not passed at this commit yet, and says what is known."""
    named = {part.name: part for part in PARTS}
    if unknown := set(parts or ()) - set(named):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: one of {', '.join(named)}.")
    results = load()
    for name in parts or named:
        known = results.get(name)
        if known and not again and (known.ended, known.commit) == (PASSED, commit()):
            continue
        print(f"== gate: {name}", flush=True)
        ended = run(named[name])
        results = load() | {name: ended}  # another part may have ended meanwhile
        save(results)
    write_table(results)
    for name in named:
        if found := results.get(name):
            print(
                f"{name:<10} {found.ended:<8} {age(found):<12} {found.commit:<10} {found.figures}"
            )
        else:
            print(f"{name:<10} never run")
    raise typer.Exit(int(any(results[n].ended == FAILED for n in parts or named if n in results)))


if __name__ == "__main__":
    typer.run(main)
