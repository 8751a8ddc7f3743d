"""`python -m usseg_ray.tune`: sweep a method's cluster counts and loss weights."""

from typing import Annotated, Literal

import typer

from usseg_ray import launch as start
from usseg_ray.cli import Version, make_app, run
from usseg_ray.plan import Request, default_space

app = make_app()


@app.command()
def tune(
    method: start.MethodName = "acseg",
    data: start.Data = "synthetic",
    num_samples: Annotated[
        int, typer.Option(min=1, help="Trials; the first takes the defaults.")
    ] = 6,
    space: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Search space; search_spaces/METHOD.yaml if unset."),
    ] = None,
    search: Annotated[
        Literal["random", "optuna"],
        typer.Option(help="random fills the space evenly and repeats exactly; optuna is TPE."),
    ] = "random",
    scheduler: Annotated[
        Literal["none", "asha"],
        typer.Option(help="asha stops weak trials early, by epoch; which ones depends on timing."),
    ] = "none",
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; as many as fit if unset.")
    ] = None,
    assign: start.Set = [],  # noqa: B006 (typer copies it)
    seed: start.Seed = None,
    out: start.Out = None,
    resume: start.Resume = None,
    device: start.Device = None,
    precision: start.Precision = None,
    tracking_uri: start.TrackingUri = None,
    dry_run: start.DryRun = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Sweep a method: trials ranked by unsupervised mIoU, floors beside them, all in MLflow.

    With no argument it sweeps ACSeg on built-in data with a built-in backbone, offline.
    """
    request = None
    if resume is None:
        request = Request(
            method=method,
            data=data,
            space=space or default_space(method),
            assigned=start.assignments(assign, device=device, precision=precision, seed=seed),
            num_samples=num_samples,
            search=search,
            scheduler=scheduler,
            max_concurrent=max_concurrent,
            tracking_uri=tracking_uri,
        )
    start.launch(request, out, resume, dry_run=dry_run)


if __name__ == "__main__":
    run(app)
