"""`python -m usseg_ray.tune`: sweep a method's cluster counts and loss weights."""

from typing import Annotated, Literal

import typer

from usseg_ray import options
from usseg_ray.cli import Version, make_app, run

app = make_app()


@app.command()
def tune(
    method: options.MethodName = "acseg",
    data: options.Data = "synthetic",
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
    assign: options.Set = [],  # noqa: B006 (typer copies it)
    seed: options.Seed = None,
    out: options.Out = None,
    resume: options.Resume = None,
    device: options.Device = None,
    precision: options.Precision = None,
    tracking_uri: options.TrackingUri = None,
    dry_run: options.DryRun = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Sweep a method: trials ranked by unsupervised mIoU, floors beside them, all in MLflow.

    With no argument it sweeps ACSeg on built-in data with a built-in backbone, offline.
    """
    from usseg_ray import launch, plan  # noqa: PLC0415 (torch, Ray, MLflow: not for --help)

    request = None
    if resume is None:
        request = plan.Request(
            method=method,
            data=data,
            space=space or plan.default_space(method),
            assigned=launch.assignments(assign, device=device, precision=precision, seed=seed),
            num_samples=num_samples,
            search=search,
            scheduler=scheduler,
            max_concurrent=max_concurrent,
            tracking_uri=tracking_uri,
        )
    launch.launch(request, out, resume, dry_run=dry_run)


if __name__ == "__main__":
    run(app)
