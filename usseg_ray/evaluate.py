"""`python -m usseg_ray.evaluate`: every score of a trained trial, on any split, by any protocol."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, console, make_app, run

if TYPE_CHECKING:
    from usseg_ray.trials.rescore import ScoringRecord

COUNTS = ("used_clusters", "collapsed")
app = make_app()


@app.command()
def main(
    trial: Annotated[
        str,
        typer.Argument(
            help="A trial's folder, or a sweep (its name under ./runs, or its folder): then the "
            "trial that ranked first."
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Split to score.", show_default="data.test_split")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A prepared set to score on.", show_default="the one it learnt from"),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="What it is scored under, see docs/protocols.md.", show_default="the trial's own"
        ),
    ] = None,
    refine: Annotated[
        str | None,
        typer.Option(
            help="Refiners to score beside the plain prediction: combinations of flip, sliding and "
            "crf, such as flip,crf,flip+crf; or none.",
            show_default="the protocol's",
        ),
    ] = None,
    device: cli.Device = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Score a trained trial on a split: all matchings, all classes, refined or not, pictures.

    Nothing is trained but a linear probe, and nothing is fitted again. What is written goes to the
    trial's folder, evaluations/DATA-SPLIT-PROTOCOL.
    """
    # torch: not for --help
    from usseg_ray.scoring.protocols import Refinement  # noqa: PLC0415
    from usseg_ray.sweeps.request import kept_at  # noqa: PLC0415
    from usseg_ray.trials.rescore import ScoringRequest, evaluate_trial  # noqa: PLC0415

    wanted = None
    if refine is not None:
        names = [] if refine == "none" else refine.split(",")
        wanted = tuple(dict.fromkeys(Refinement.parse(name) for name in names))
    asked = ScoringRequest(split, data, protocol, wanted, device)
    with _progress() as progress:
        bar = progress.add_task("Loading", total=None)

        def watch(what: str, images: int, total: int) -> None:
            progress.update(bar, description=what, completed=images, total=total)

        done = evaluate_trial(trial, asked, kept_at, watch)
    console.print(f"[bold]{done.trial.name}[/] ({done.trial.method})  {done.protocol}")
    console.print(scores_table(done))
    if done.metrics["collapsed"]:
        share = done.metrics["largest_share"]
        console.print(f"[red]Collapsed: one cluster has {share:.1f} % of the pixels.[/]")
    console.print(classes_table(json.loads((done.folder / "per_class.json").read_text())))
    console.print(f"Pictures and tables: {done.folder}", highlight=False, soft_wrap=True)


def _progress() -> Progress:
    """Makes a bar that is seen on a terminal alone, and leaves nothing there."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def scores_table(done: "ScoringRecord") -> Table:
    """Lays out scores in percent, a column for each refinement, the baselines beneath."""
    from usseg_ray.engine.baselines import label  # noqa: PLC0415
    from usseg_ray.scoring.protocols import PLAIN  # noqa: PLC0415

    columns = (PLAIN, *done.refinements)
    table = Table("score, %", *map(str, columns))
    if done.crf:
        table.caption = f"CRF: {done.crf}"
    for column in table.columns[1:]:
        column.justify = "right"
    names = [name for name in done.metrics if "." not in name and name != "evaluated_images"]
    for name in sorted(names, key=lambda name: name != done.headline):
        values = [done.metrics[f"{refinement.prefix}{name}"] for refinement in columns]
        if name not in COUNTS:
            heading = f"[bold]{name}[/]" if name == done.headline else name
            table.add_row(heading, *(f"{value:.2f}" for value in values))
    table.add_section()
    for name, value in done.baselines.items():
        table.add_row(f"unsup_miou of {label(name)}", f"{value:.2f}")
    return table


def classes_table(classes: list[dict[str, object]]) -> Table:
    """Lays out IoU in percent and labelled pixels of every class."""
    table = Table("class", "IoU", "pixels")
    for row in classes:
        iou = "-" if row["iou"] is None else f"{row['iou']:.2f}"
        table.add_row(str(row["class"]), iou, str(row["pixels"]))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


if __name__ == "__main__":
    run(app)
