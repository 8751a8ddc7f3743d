"""What the commands share: the way they end, and the options that mean the same everywhere."""

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

    Args:
        app: The command of one module.
    """
    try:
        app()
    except UserError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as end:
        # What typer makes of Ctrl-C, without a word.
        if end.code == INTERRUPTED:
            errors.print("Interrupted.", highlight=False)
        raise
