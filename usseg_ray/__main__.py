"""`usseg-ray COMMAND`, or `python -m usseg_ray COMMAND`: every command by one name.

A command's module is imported when it is called, so that the list of them costs next to nothing.
"""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from usseg_ray.core.cli import CONSOLE, Version, run

COMMANDS = {
    "fit": "Photographs to masks, without labels: the way in.",
    "tune": "Sweep methods, cluster counts and loss weights.",
    "train": "Train one method once.",
    "reproduce": "Run published methods on a published set, beside their numbers.",
    "prepare": "Make a prepared set of a folder or of a published set.",
    "predict": "Segment images with a model: masks, overlays and other formats.",
    "serve": "Answer over HTTP with a model: label maps, shares, confidence.",
    "demo": "Try a model in a browser.",
    "look": "Show what a model's clusters are, on a page that names them.",
    "name": "Name, colour, merge and leave out a model's clusters.",
    "evaluate": "Score a trained trial again, by any protocol.",
    "report": "Put sweeps side by side, or write a page about them.",
    "export": "Write a model as ONNX, for MLflow, or with all that it needs.",
    "push": "Upload a model to the Hugging Face Hub.",
    "import-checkpoint": "Make a model, or a backbone, of an official checkpoint.",
    "features": "List, compute and remove stored features.",
    "doctor": "Look at machine, access, stores and launcher files.",
    "bench": "Measure this machine.",
}
"""Name -> what it does, in the order of the list; a module of the package each."""

_ROOMS = ("prepare", "export", "report", "features", "doctor", "bench", "serve")
"""Commands that are folders."""


class Commands(TyperGroup):
    """The commands, imported one by one."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 (click's, which moves)
        """Lists their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002
        """Imports a command."""
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        place = f"usseg_ray.{module}" + (".__main__" if cmd_name in _ROOMS else "")
        return typer.main.get_command(importlib.import_module(place).app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Writes the list without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(name=CONSOLE, cls=Commands, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, version: Version = False) -> None:  # noqa: ARG001
    """Unsupervised semantic segmentation: which method, how many clusters, which masks.

    `usseg-ray fit FOLDER` is the way in; `usseg-ray COMMAND --help` explains a command.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def console() -> None:
    """Runs the console script."""
    run(app)


if __name__ == "__main__":
    console()
