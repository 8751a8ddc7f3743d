"""The command that started this process, in the form in which somebody else may repeat it.

It stands beside `tracking`, which keeps it as a tag of the sweep, for `report` to show.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from usseg_ray.redaction import redacted


def repeatable(argv: Sequence[str]) -> str:
    """Writes a command line of this package as a shell line, without the secrets in its addresses.

    Args:
        argv: As `sys.argv`.

    Returns:
        `python -m usseg_ray.COMMAND ...`; empty where another program called the package, and
        where a sweep is resumed: it is its first command that repeats it.
    """
    program, *arguments = argv
    path = Path(program)
    resumed = any(re.match(r"--resume(=|$)", argument) for argument in arguments)
    if resumed or path.absolute().parent != Path(__file__).absolute().parent:
        return ""
    return shlex.join(["python", "-m", f"usseg_ray.{path.stem}", *map(redacted, arguments)])
