"""`python -m tests.faults [NAME ...]`: tries what has not been tried, and writes the table.

It runs in namespaces of its own (processes, /tmp, /dev/shm, network), so that whatever is left
there was left by a fault; that takes Linux, and `unshare`.
"""

import argparse
import os
import shlex
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults import kinds  # noqa: F401
from tests.faults.matrix import FAULTS, HELD, TRIES, attempted, keep, load_rows, show
from tests.integration.nodes import ENVIRONMENT

INSIDE = "USSEG_FAULTS_INSIDE"


def apart() -> None:
    """Starts this program again in namespaces of its own."""
    own = ["--mount", "--pid", "--fork", "--mount-proc", "--net", "--kill-child"]
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    again = shlex.join([sys.executable, "-m", "tests.faults", *sys.argv[1:]])
    mounts = "for at in /tmp /dev/shm; do mount -t tmpfs tmpfs $at; done; ip link set lo up"
    # The shell stays, as the first process: it takes those that lost their parent.
    script = f"{mounts}; {again}; exit $?"
    # What Ray reads when it is imported, which is before its cluster is there.
    os.environ.update({**ENVIRONMENT, "RAY_worker_niceness": "0", INSIDE: "1"})
    os.execvp("unshare", ["unshare", *user, *own, "bash", "-c", script])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--tries", type=int, default=TRIES, help="of each fault, at most")
    parser.add_argument("--list", action="store_true", help="list the faults and stop")
    parser.add_argument("--again", action="store_true", help="repeat tries that did not hold")
    parser.add_argument("--forget", action="store_true", help="keep no result")
    asked = parser.parse_args()
    console = Console()
    if asked.list:
        for fault in FAULTS.values():
            console.print(f"[bold]{fault.name}[/]  {fault.what}", highlight=False)
        return 0
    if unknown := [name for name in asked.names if name not in FAULTS]:
        parser.error(f"no such fault: {', '.join(unknown)}")
    if INSIDE not in os.environ:
        apart()
    rows = [] if asked.forget else load_rows()
    done = {(row.fault, row.seed) for row in rows if row.outcome == HELD or not asked.again}
    left = [(FAULTS[name], seed) for seed in range(asked.tries) for name in asked.names or FAULTS]
    left = [(fault, seed) for fault, seed in left if (fault.name, seed) not in done]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    failed = 0
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(left))
        for within in dict.fromkeys(fault.within for fault, _ in left):
            with within():
                for fault, seed in left:
                    if fault.within is not within:
                        continue
                    progress.update(bar, description=f"{fault.name} {seed}")
                    row = attempted(fault, seed)
                    if not asked.forget:
                        keep(row)
                    failed += row.outcome != HELD
                    seconds = "" if row.recovery_s is None else f", {row.recovery_s:.1f} s"
                    said = f"{fault.name} {seed}: {row.outcome}{seconds}"
                    progress.console.print(said, markup=False, highlight=False)
                    progress.advance(bar)
    if asked.forget:
        return int(failed > 0)
    show()
    rows = load_rows()
    held = sum(row.outcome == HELD for row in rows)
    console.print(f"{len(rows)} tries of {len(FAULTS)} faults, {held} held", highlight=False)
    return int(held < len(rows))


if __name__ == "__main__":
    sys.exit(main())
