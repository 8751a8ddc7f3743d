"""`python -m usseg_ray.train`: one run of one method."""

from usseg_ray.core import cli
from usseg_ray.core.calibration import Effort
from usseg_ray.core.cli import Version, make_app, run
from usseg_ray.settings.assigned import check_assigned
from usseg_ray.sweeps import request
from usseg_ray.sweeps.request import Backbone, Calibrate, Request, option

app = make_app()


@app.command()
def train(
    method: cli.MethodName = None,
    data: str = option("data"),
    preset: str | None = option("preset", "NAME"),
    backbone: Backbone = None,
    calibrate: Calibrate = option("calibrate"),
    effort: Effort = option("effort"),
    assign: cli.Set = [],  # noqa: B006 (typer copies it)
    seed: cli.Seed = None,
    out: cli.Out = None,
    resume: cli.Resume = None,
    device: cli.Device = None,
    precision: cli.Precision = None,
    workers_per_trial: cli.WorkersPerTrial = None,
    tracking_uri: cli.TrackingUri = None,
    dry_run: cli.DryRun = False,
    keys: cli.Keys = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Train a method once: its score beside the floors where there are labels, pictures always."""
    request.check_places(data, resume)
    asked = None
    if resume is None:
        name = request.named_method(method, preset)
        assigned = request.assignments(
            assign,
            backbone=backbone,
            device=device,
            precision=precision,
            seed=seed,
            workers=workers_per_trial,
        )
        check_assigned([name], assigned)
        asked = Request(
            methods={name: None},
            data=data,
            preset=preset,
            calibrate=calibrate,
            effort=effort,
            assigned=assigned,
            num_samples=1,
            finalists=1,
            seeds=1,
            tracking_uri=tracking_uri,
        )
    # torch, Ray, MLflow: neither for --help nor for what is refused.
    from usseg_ray.sweeps import launch  # noqa: PLC0415

    launch.launch(asked, out, resume, dry_run=dry_run, keys=keys)


if __name__ == "__main__":
    run(app)
