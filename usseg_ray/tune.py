"""`python -m usseg_ray.tune`: sweep cluster counts and loss weights, of one method or several."""

from typing import Annotated, Literal

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, make_app, run

app = make_app()


@app.command()
def tune(
    method: cli.MethodNames = None,
    data: cli.Data = "synthetic",
    num_samples: Annotated[
        int, typer.Option(min=1, help="Trials of each method; its first takes the defaults.")
    ] = 6,
    question: Annotated[
        Literal["k"] | None,
        typer.Option(
            help="k: how many clusters? Tries --num-samples values of K with --seeds seeds each, "
            "and answers with a curve, a K and pictures."
        ),
    ] = None,
    preset: cli.PresetName = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Search space of one method, or a folder of METHOD.yaml; search_spaces/ if unset.",
        ),
    ] = None,
    search: Annotated[
        Literal["random", "optuna"],
        typer.Option(
            help="random fills the space evenly and repeats exactly; optuna is TPE, a model for "
            "each method."
        ),
    ] = "random",
    scheduler: Annotated[
        Literal["none", "asha"],
        typer.Option(
            help="asha stops weak trials early, at equal epochs whatever their method; which ones "
            "depends on timing."
        ),
    ] = "none",
    objective: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="What trials are ranked by: unsup_miou, label_free.view_information or another "
            "criterion without labels (docs/choosing_k.md); auto: unsup_miou if there are labels.",
        ),
    ] = "auto",
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="RUN,...|all",
            help="Earlier sweeps on the same data that optuna learns from; all: those in ./runs.",
        ),
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; as many as fit if unset.")
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="For the trials, such as 90s, 30m or 2h; finals follow."),
    ] = None,
    finalists: Annotated[
        int,
        typer.Option(min=0, help="Best trials to train with more seeds and to score on the test."),
    ] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="With which each finalist is trained.")] = 3,
    gpu_hour_price: Annotated[
        float | None,
        typer.Option(min=0, help="Price of a GPU for an hour, to show what the sweep costs."),
    ] = None,
    assign: cli.Set = [],  # noqa: B006 (typer copies it)
    seed: cli.Seed = None,
    out: cli.Out = None,
    resume: cli.Resume = None,
    device: cli.Device = None,
    precision: cli.Precision = None,
    workers_per_trial: cli.WorkersPerTrial = None,
    tracking_uri: cli.TrackingUri = None,
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Register the best trial's model in MLflow, as the champion of that name.",
        ),
    ] = None,
    dry_run: cli.DryRun = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Sweep methods: trials ranked by unsupervised mIoU, floors beside them, all in MLflow.

    With no argument it sweeps ACSeg on built-in data with a built-in backbone, offline.
    """
    # torch, Ray, MLflow: not for --help.
    from usseg_ray.sweeps import launch, request  # noqa: PLC0415

    asked = None
    if resume is None:
        names = request.named_methods(method, preset)
        asked = request.Request(
            methods=request.with_spaces(names, space),
            data=data,
            preset=preset,
            assigned=launch.assignments(
                assign,
                device=device,
                precision=precision,
                seed=seed,
                workers=workers_per_trial,
            ),
            num_samples=num_samples,
            question=question,
            search=search,
            scheduler=scheduler,
            objective=objective,
            max_concurrent=max_concurrent,
            time_budget_s=launch.seconds(time_budget) if time_budget else None,
            finalists=0 if question else finalists,
            seeds=seeds,
            warm_start=warm_start,
            gpu_hour_price=gpu_hour_price,
            tracking_uri=tracking_uri,
            register_as=register,
        )
    launch.launch(asked, out, resume, dry_run=dry_run)


if __name__ == "__main__":
    run(app)
