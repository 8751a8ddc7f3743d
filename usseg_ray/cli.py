"""What the commands share: the way they end, and the options that mean the same everywhere."""

import errno
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from usseg_ray import __version__
from usseg_ray.config import UserError

console = Console()
errors = Console(stderr=True)
INTERRUPTED = 130
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
    return typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )


def run(app: typer.Typer) -> None:
    """Runs a command; a `UserError` ends it with its message and exit code 2, Ctrl-C with 130.

    So does a place that cannot be written: a full disk, a folder that is read-only.

    Args:
        app: The command of one module.
    """
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
