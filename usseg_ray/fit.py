"""`python -m usseg_ray.fit`, `usseg-ray fit`: photographs to masks, without labels."""

from typing import Annotated

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, make_app, run
from usseg_ray.settings.assigned import check_assigned
from usseg_ray.sweeps import request
from usseg_ray.sweeps.request import FITTED, Backbone

app = make_app()


@app.command()
def fit(
    photos: Annotated[
        str | None,
        typer.Argument(
            help="Folder of images (folders below it too), a bucket, *.parquet with an image "
            "column, or a WebDataset *.tar."
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            help="Which bands of TIFF files are red, green and blue: numbers from 1 or names.",
            show_default="the file's own colours",
        ),
    ] = None,
    backbone: Backbone = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"What to compare, with commas between them: {', '.join(cli.METHODS)}.",
            show_default=",".join(FITTED),
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=2, help="Values of K that are tried.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="With which each is tried.")] = 3,
    assign: cli.Set = [],  # noqa: B006 (typer copies it)
    device: cli.Device = None,
    out: cli.Out = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run; images that were added since get masks from its model.",
        ),
    ] = None,
    names_of: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Take over the names of a model that was trained before, such as on fewer of "
            "these images.",
        ),
    ] = None,
    tracking_uri: cli.TrackingUri = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Make masks of photographs without labels: method and K are chosen, the model is kept.

    Nothing else is needed: usseg-ray fit photos
    """
    chosen = request.named_methods(method, None) if method else [*FITTED]
    assigned = request.assignments(
        assign, backbone=None, device=device, precision=None, seed=None, workers=None
    )
    if resume is None:
        check_assigned(chosen, assigned)
    # torch, Ray, MLflow: neither for --help nor for what is refused.
    from usseg_ray.sweeps.own import fitting  # noqa: PLC0415

    fitting.fit(
        photos,
        out=out,
        resume=resume,
        bands=bands,
        methods=tuple(chosen),
        backbone=backbone,
        num_samples=num_samples,
        seeds=seeds,
        assigned=assigned,
        names_of=names_of,
        tracking_uri=tracking_uri,
    )


if __name__ == "__main__":
    run(app)
