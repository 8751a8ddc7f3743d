"""Known holes of what is installed, as pip-audit tells them: `python -m tests.gate.audit`.

Where its source of advisories cannot be reached it audits nothing, and so ends as not run.
"""

import json
import site
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.conftest import PROJECT
from tests.gate.parts import NOTHING_RAN

TOOLS = ".venv-tools"


def told(dependencies: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """Says what an audit found, and the exit code that says so.

    Args:
        dependencies: As pip-audit's JSON has them: `vulns`, or the `skip_reason` of what it could
            not audit.
    """
    audited = [one for one in dependencies if "skip_reason" not in one]
    holes = [f"{one['name']} {hole['id']}" for one in audited for hole in one["vulns"]]
    sentence = f"{len(audited)} of {len(dependencies)} packages audited, {len(holes)} known holes"
    if not audited:
        return f"{sentence}: advisories cannot be reached here", NOTHING_RAN
    return ": ".join((sentence, ", ".join(holes))) if holes else sentence, 0


def main() -> None:
    """Audits this environment by a tool that is not in it."""
    subprocess.run(["make", "--silent", f"{TOOLS}/.installed"], cwd=PROJECT, check=True)
    place = site.getsitepackages()[0]
    command = [f"{TOOLS}/bin/pip-audit", "--path", place, "--format", "json"]
    command += ["--progress-spinner", "off"]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    sentence, code = told(json.loads(done.stdout)["dependencies"])
    print(sentence)
    sys.exit(code)


if __name__ == "__main__":
    main()
