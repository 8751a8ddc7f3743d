"""`python -m usseg_ray.train`: one run of one method."""

from usseg_ray import launch as start
from usseg_ray.cli import Version, make_app, run
from usseg_ray.plan import Request

app = make_app()


@app.command()
def train(
    method: start.MethodName = "acseg",
    data: start.Data = "synthetic",
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
    """Train a method once: its score beside the floors where there are labels, pictures always."""
    request = None
    if resume is None:
        request = Request(
            method=method,
            data=data,
            space=None,
            assigned=start.assignments(assign, device=device, precision=precision, seed=seed),
            num_samples=1,
            search="random",
            scheduler="none",
            tracking_uri=tracking_uri,
        )
    start.launch(request, out, resume, dry_run=dry_run)


if __name__ == "__main__":
    run(app)
