"""`python -m usseg_ray.bench`: how fast this machine is at each stage, and what it could be.

Off an image's path. A figure means nothing by itself, so every one is printed beside a limit that
was measured in the same run: decoding on one core times the cores, a copy from memory, a matrix
product, or the code that the field uses. What was found is kept, so that a later run can be
compared with it.
"""

from typing import Annotated, Literal

import typer

from usseg_ray.core.cli import Version, make_app, run

app = make_app()


@app.command()
def main(
    what: Annotated[
        Literal["io", "features", "methods", "sweep", "crf", "eval", "predict", "gpu", "all"],
        typer.Argument(help="What to measure, or to compare."),
    ] = "all",
    full: Annotated[
        bool,
        typer.Option("--full", help="With the long comparisons: an hour of `sweep` on two cores."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the run as JSON instead of a table.")
    ] = False,
    comparing: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Measure nothing: show the last run on this machine beside the one before.",
        ),
    ] = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Measure this machine: each stage beside its limit, and where a sweep's time goes.

    Images are generated, weights random, files temporary. Every run is kept in bench.jsonl beside
    the prepared sets. It ends with exit code 1 if a figure misses its bar.
    """
    # torch, Ray, MLflow: not for --help.
    from usseg_ray.bench.suite import measure, show_changes  # noqa: PLC0415

    if comparing:
        show_changes(what, as_json=as_json)
    elif not measure(what, full=full, as_json=as_json):
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
