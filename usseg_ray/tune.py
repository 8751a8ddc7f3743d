"""`python -m usseg_ray.tune`: sweep cluster counts and loss weights, of one method or several."""

from typing import Annotated

import typer

from usseg_ray.core import cli
from usseg_ray.core.calibration import Effort
from usseg_ray.core.cli import Version, make_app, run
from usseg_ray.settings.assigned import check_assigned
from usseg_ray.sweeps import request
from usseg_ray.sweeps.request import (
    Backbone,
    Calibrate,
    Question,
    Request,
    Scheduler,
    Search,
    option,
)
from usseg_ray.sweeps.space import check_spaces

app = make_app()


@app.command()
def tune(
    method: cli.MethodNames = None,
    data: str = option("data"),
    num_samples: int = option("num_samples"),
    question: Question | None = option("question"),
    preset: str | None = option("preset", "NAME"),
    space: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Search space of one method, or a folder of METHOD.yaml; search_spaces/ if unset.",
        ),
    ] = None,
    search: Search = option("search"),
    scheduler: Scheduler = option("scheduler"),
    objective: str = option("objective", "METRIC"),
    warm_start: str | None = option("warm_start", "RUN,...|all"),
    max_concurrent: int | None = option("max_concurrent"),
    time_budget: str | None = option("time_budget_s", "TIME"),
    finalists: int = option("finalists"),
    seeds: int = option("seeds"),
    gpu_hour_price: float | None = option("gpu_hour_price"),
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
    register: str | None = option("register_as", "NAME"),
    dry_run: cli.DryRun = False,
    keys: cli.Keys = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Sweep methods: trials ranked by unsupervised mIoU, floors beside them, all in MLflow.

    With no argument it sweeps ACSeg on built-in data with a built-in backbone, offline.
    """
    request.check_places(data, resume)
    asked = None
    if resume is None:
        names = request.named_methods(method, preset)
        spaces = request.with_spaces(names, space)
        assigned = request.assignments(
            assign,
            backbone=backbone,
            device=device,
            precision=precision,
            seed=seed,
            workers=workers_per_trial,
        )
        check_assigned(names, assigned)
        check_spaces(spaces, assigned)
        asked = Request(
            methods=spaces,
            data=data,
            preset=preset,
            calibrate=calibrate,
            effort=effort,
            assigned=assigned,
            num_samples=num_samples,
            question=question,
            search=search,
            scheduler=scheduler,
            objective=objective,
            max_concurrent=max_concurrent,
            time_budget_s=request.seconds(time_budget) if time_budget else None,
            finalists=0 if question else finalists,
            seeds=seeds,
            warm_start=warm_start,
            gpu_hour_price=gpu_hour_price,
            tracking_uri=tracking_uri,
            register_as=register,
        )
    # torch, Ray, MLflow: neither for --help nor for what is refused.
    from usseg_ray.sweeps import launch  # noqa: PLC0415
    from usseg_ray.sweeps.own import fitting  # noqa: PLC0415

    if asked is not None:
        asked = asked.model_copy(update={"data": fitting.ready(data)})
    launch.launch(asked, out, resume, dry_run=dry_run, keys=keys)


if __name__ == "__main__":
    run(app)
