"""What the commands share: the way they end, options that mean the same, and how to repeat one.

Nothing heavy is imported, so `--help` is quick.
"""

import errno
import gc
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.errors import MarkupError
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from usseg_ray import __version__
from usseg_ray.core.errors import UserError, redacted
from usseg_ray.core.foreign import printable


class Terminal(Console):
    """Prints text from anywhere: no letter of it is obeyed, nor is markup that is none."""

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 (rich's own)
        """Turns a string of a line, or of a table's cell, into what is shown."""
        safe = printable(text)
        try:
            "±".encode(self.encoding)
        except UnicodeEncodeError:
            safe = safe.replace("±", "+-")  # before columns get their widths
        try:
            return super().render_str(safe, **options)
        except MarkupError:
            return super().render_str(safe, **options | {"markup": False})

    def say(self, text: str) -> None:
        """Prints a text as it is: no markup, no colours, no line broken."""
        self.print(text, markup=False, highlight=False, soft_wrap=True)


console = Terminal(emoji=False)

errors = Terminal(stderr=True, emoji=False)

OnProgress = Callable[[int, int, int], None]
"""Told of images done, broken ones among them, and all."""


@contextmanager
def image_bar(what: str) -> Iterator[OnProgress]:
    """Shows how far a walk over images is; nothing of it stays on the screen.

    Yields:
        What is to be told of it.
    """
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images, {task.fields[bad]} bad"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(what, total=None, bad=0)
        yield lambda done, bad, total: progress.update(bar, completed=done, bad=bad, total=total)


INTERRUPTED = 130

CONSOLE = "usseg-ray"
"""Name of the console script."""

# What a place says that cannot be written, on whichever of a command's many ways to it.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"usseg_ray {__version__}", highlight=False)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
    ),
]


def make_app() -> typer.Typer:
    """Makes a command without shell-completion flags or pretty tracebacks."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(app: typer.Typer) -> None:
    """Runs a command; a `UserError` ends it with its message and exit code 2, Ctrl-C with 130.

    So does a place that cannot be written: a full disk, a folder that is read-only.

    Args:
        app: The command of one module.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of latin-1 has no box to draw
    # A million objects are imported, none of which is garbage, and each is looked at many times.
    gc.set_threshold(10_000, 10, 10)
    try:
        app()
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _refuse(
            f"{where}{error.strerror}.\nMake room, correct its rights, or name another folder; "
            "python -m usseg_ray.doctor looks at those that a run writes."
        )
    except SystemExit as end:
        # What typer makes of Ctrl-C, without a word.
        if end.code == INTERRUPTED:
            errors.print("Interrupted.", highlight=False)
        raise


def _refuse(message: str) -> None:
    errors.print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


_PACKAGE = Path(__file__).absolute().parents[1]
SHARED = ("__init__", "base")

METHODS = sorted(
    path.stem for path in (_PACKAGE / "methods").glob("*.py") if path.stem not in SHARED
)

MethodName = Annotated[
    str | None, typer.Option(help=f"One of: {', '.join(METHODS)}.", show_default="acseg")
]

MethodNames = Annotated[
    str | None,
    typer.Option(
        help=f"One or several, with commas between them: {', '.join(METHODS)}. `all`: all but the "
        "floors, which stand beside every sweep.",
        show_default="acseg",
    ),
]

Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Any config key, e.g. --set method.gamma=1.5; may be repeated. "
        "All keys: --dry-run --keys.",
    ),
]

Out = Annotated[
    str | None,
    typer.Option(
        help="Folder of this run, or a URI such as s3://bucket/name, which needs no folder that "
        "all machines share; ./runs/METHOD-DATA-TIME if unset."
    ),
]

Resume = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Go on with a run: its name under ./runs, folder or URI. Ended trials are kept.",
    ),
]

Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda (short for --set resources.device).")
]

Precision = Annotated[
    str | None,
    typer.Option(help="auto, float32 or bfloat16 (short for --set resources.precision)."),
]

WorkersPerTrial = Annotated[
    str | None,
    typer.Option(
        metavar="auto|0|N|MIN-MAX",
        help="0: a trial trains in its own process, which starts quickly; N: N processes train it "
        "together; MIN-MAX: as many as there is room for; auto: 0 for trials under a minute, else "
        "1 (short for --set resources.num_workers).",
        show_default="auto",
    ),
]

Seed = Annotated[int | None, typer.Option(help="Seed of everything (short for --set seed).")]

ModelPlace = Annotated[
    str,
    typer.Option(
        help="A model's folder, a run (its name under ./runs, or its folder), a trial's folder, "
        "models:/NAME@champion, or hf://OWNER/NAME."
    ),
]

Computing = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]

TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI, else SQLite in this folder, if unset."),
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the trials, their time and cost, and stop.")
]

Keys = Annotated[
    bool, typer.Option("--keys", help="With --dry-run: print every resolved key as well.")
]


def repeatable(argv: Sequence[str]) -> str:
    """Writes a command line of this package as a shell line, without the secrets in its addresses.

    Args:
        argv: As `sys.argv`.

    Returns:
        `python -m usseg_ray.COMMAND ...`, or as it was called by the console script; empty where
        another program called the package, and
        where a sweep is resumed: it is its first command that repeats it.
    """
    program, *arguments = argv
    path = Path(program).absolute()
    module = path.parent if path.stem == "__main__" else path.with_suffix("")
    resumed = any(re.match(r"--resume(=|$)", argument) for argument in arguments)
    if resumed:
        return ""
    if path.name == CONSOLE:
        return shlex.join([CONSOLE, *map(redacted, arguments)])
    if module == _PACKAGE:
        return shlex.join(["python", "-m", "usseg_ray", *map(redacted, arguments)])
    if module.parent != _PACKAGE:
        return ""
    return shlex.join(["python", "-m", f"usseg_ray.{module.name}", *map(redacted, arguments)])
