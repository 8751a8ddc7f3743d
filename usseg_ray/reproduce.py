"""`python -m usseg_ray.reproduce`: published methods on a published set, beside their numbers."""

from typing import Annotated

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, make_app, run
from usseg_ray.core.errors import UserError, about
from usseg_ray.settings.assigned import assigned_to, check_alone
from usseg_ray.sweeps import request
from usseg_ray.sweeps.published.cells import SETS, table_cells

app = make_app()


@app.command()
def reproduce(
    published: Annotated[
        str | None, typer.Argument(metavar="SET", help=f"One of: {', '.join(SETS)}.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, or variants such as cause-tr, with commas between them.",
            show_default="all that are published for the set",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.yaml,...",
            help="Backbones as `tune --backbone` takes them, with commas between them; each method "
            "runs on each.",
            show_default="what each method was published with",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PREPARED",
            help="Where the set is: what `prepare --dataset SET` made.",
            show_default="SET, under $USSEG_DATA",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With which each run is trained.")] = 1,
    assign: cli.Set = [],  # noqa: B006 (typer copies it)
    device: cli.Device = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the table and its runs.", show_default="runs/SET-table-TIME"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Go on with a table: ended runs are kept; name no SET beside it."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, their time and disk, and stop.")
    ] = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Run published settings under the published protocol, and write one table of the differences.

    Each method on each backbone is a run as of `train --preset`, scored on the official validation
    images, with the refiners of the protocol. The price is printed first. Exit code 1: runs failed,
    and the table says why; --resume tries them again.
    """
    if (published is None) == (resume is None):
        raise UserError(f"name a set ({', '.join(SETS)}), or --resume RUN: one of the two.")
    if published is None:
        request.check_places("", resume)
        requests = None
    else:
        cells = table_cells(published, methods, backbone)
        place = data or published
        try:
            request.check_places(place, None)
        except UserError:
            raise UserError(
                f"{place}: no prepared set of that name or in that folder. Name it by --data, or "
                f"prepare it: python -m usseg_ray.prepare --dataset {published} --source FOLDER"
            ) from None
        assigned = request.assignments(
            assign, backbone=None, device=device, precision=None, seed=None, workers=None
        )
        own = assigned_to(list(dict.fromkeys(cell.preset.method for cell in cells)), assigned)
        for cell in cells:
            with about(cell.name):
                check_alone(cell.preset.method, own[cell.preset.method])
        requests = {cell.name: cell.request(place, seeds, assigned) for cell in cells}
    # torch, Ray, MLflow: neither for --help nor for what is refused.
    from usseg_ray.sweeps.published.reproduction import reproduce_table  # noqa: PLC0415

    failed = reproduce_table(requests, published, out, resume, dry_run=dry_run)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    run(app)
