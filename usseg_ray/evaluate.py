"""`python -m usseg_ray.evaluate`: every score of a trained trial, on any split, by any protocol."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, console, make_app, run
from usseg_ray.core.foreign import printable
from usseg_ray.core.table import Column, Table, TableRow
from usseg_ray.core.table_text import as_rich

if TYPE_CHECKING:
    from usseg_ray.trials.rescore import ScoringRecord

COUNTS = ("used_clusters", "collapsed", "evaluated_images")
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
            help="Refiners to score beside the plain prediction: combinations of flip, sliding, "
            "anyup, guided and crf, such as flip,crf,flip+crf; or none.",
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
    from usseg_ray.trials.trial import find_run  # noqa: PLC0415

    find_run(trial)
    # torch: neither for --help nor for what is not there
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
            progress.update(bar, description=escape(printable(what)), completed=images, total=total)

        done = evaluate_trial(trial, asked, kept_at, watch)
    console.print(f"[bold]{escape(done.trial.name)}[/] ({done.trial.method})", highlight=False)
    console.print(as_rich(scores_table(done)), highlight=False)
    if done.metrics["collapsed"]:
        share = done.metrics["largest_share"]
        console.print(f"[red]Collapsed: one cluster has {share:.1f} % of the pixels.[/]")
    classes = classes_table(json.loads((done.folder / "per_class.json").read_text()))
    console.print(as_rich(classes), highlight=False)
    console.say(f"Pictures and tables: {done.folder}")


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
    from usseg_ray.engine.baselines import baseline_rows  # noqa: PLC0415 (torch: not for --help)
    from usseg_ray.scoring.protocols import PLAIN  # noqa: PLC0415

    refinements = (PLAIN, *done.refinements)
    names = [name for name in done.metrics if "." not in name and name not in COUNTS]
    rows = [
        TableRow({"name": name, **{str(r): done.metrics[f"{r.prefix}{name}"] for r in refinements}})
        for name in sorted(names, key=lambda name: name != done.headline)
    ]
    for row in baseline_rows(done.baselines.items()):
        what = f"unsup_miou of {row.cells['name']}"
        rows.append(TableRow({"name": what, str(PLAIN): row.cells["unsup_miou"]}, row.kind))
    parts = (done.protocol, done.crf and f"CRF: {done.crf}", done.anyup and f"AnyUp: {done.anyup}")
    caption = "; ".join(filter(None, parts))
    scores = (Column(str(refinement), str(refinement), 2) for refinement in refinements)
    return Table(caption, (Column("name", "score, %"), *scores), tuple(rows))


def classes_table(classes: list[dict[str, Any]]) -> Table:
    """Lays out IoU in percent and labelled pixels of every class."""
    columns = (Column("name", "class"), Column("iou", "IoU", 2), Column("pixels", "pixels", 0))
    rows = (
        TableRow({"name": one["class"], "iou": one["iou"], "pixels": float(one["pixels"])})
        for one in classes
    )
    return Table("", columns, tuple(rows))


if __name__ == "__main__":
    run(app)
