"""`python -m usseg_ray.evaluate`: every score of a trained trial, on any split."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from usseg_ray import options
from usseg_ray.cli import Version, console, make_app, run

if TYPE_CHECKING:
    from rich.table import Table

app = make_app()


@app.command()
def evaluate(
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
    device: options.Device = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Score a trained trial on a split: all matchings, all classes, pictures.

    Nothing is trained and nothing is fitted again. What is written goes to the trial's folder,
    evaluations/DATA-SPLIT.
    """
    from usseg_ray.evaluation import evaluate_trial  # noqa: PLC0415 (torch: not for --help)

    done = evaluate_trial(trial, split=split, data=data, device=device)
    console.print(f"[bold]{done.trial.name}[/] ({done.trial.method})  {done.protocol}")
    console.print(scores_table(done.metrics, done.baselines))
    if not done.baselines:
        console.print("No baselines: the sweep computed none on these images.")
    if done.metrics["collapsed"]:
        share = done.metrics["largest_share"]
        console.print(f"[red]Collapsed: one cluster has {share:.1f} % of the pixels.[/]")
    console.print(classes_table(json.loads((done.folder / "per_class.json").read_text())))
    console.print(f"Pictures and tables: {done.folder}", highlight=False, soft_wrap=True)


def scores_table(metrics: dict[str, float], baselines: dict[str, float]) -> "Table":
    """Lays out the scores of a trial in percent, the baselines' `unsup_miou` beneath."""
    from rich.table import Table  # noqa: PLC0415

    from usseg_ray.screen import label  # noqa: PLC0415

    table = Table("score", "percent")
    table.columns[1].justify = "right"
    for name, value in metrics.items():
        if name not in ("evaluated_images", "used_clusters", "collapsed"):
            table.add_row(name, f"{value:.2f}")
    table.add_section()
    for name, value in baselines.items():
        table.add_row(f"unsup_miou of {label(name)}", f"{value:.2f}")
    return table


def classes_table(classes: list[dict[str, object]]) -> "Table":
    """Lays out IoU in percent and labelled pixels of every class."""
    from rich.table import Table  # noqa: PLC0415

    table = Table("class", "IoU", "pixels")
    for row in classes:
        iou = "-" if row["iou"] is None else f"{row['iou']:.2f}"
        table.add_row(str(row["class"]), iou, str(row["pixels"]))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


if __name__ == "__main__":
    run(app)
