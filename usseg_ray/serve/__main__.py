"""`python -m usseg_ray.serve`: a model behind HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from usseg_ray.core.cli import Computing, ModelPlace, TrackingUri, Version, console, make_app, run

app = make_app()


@app.command()
def main(
    *,
    model: ModelPlace,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; one that others reach takes a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that clients show (Authorization: Bearer TOKEN); "
            "$USSEG_SERVE_TOKEN if unset."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Copies of the model; on GPUs each has one.")
    ] = 1,
    device: Computing = "auto",
    max_upload: Annotated[int, typer.Option(min=1, max=1024, help="MiB of a request's body.")] = 32,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=64, help="Megapixels of an image (of 2**20 pixels).")
    ] = 24,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that wait; the next ones are told 503.")
    ] = 32,
    tracking_uri: TrackingUri = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Serve a model: POST /predict, GET /names, GET /health; docs/serve.md has examples.

    Ctrl-C or SIGTERM ends it when the requests that it has begun are answered.
    """
    from usseg_ray.tracking.model import find_model_anywhere  # noqa: PLC0415

    folder = find_model_anywhere(model, tracking_uri)
    # torch, Ray: neither for --help nor for what is not there.
    from usseg_ray.core.machine import chosen_device  # noqa: PLC0415
    from usseg_ray.serve.access import check_host, read_token  # noqa: PLC0415
    from usseg_ray.serve.limits import Limits  # noqa: PLC0415
    from usseg_ray.serve.serving import ServeOptions, check_extra, serve  # noqa: PLC0415

    check_extra()
    token = read_token(token_file, os.environ)
    check_host(host, token)
    order = ServeOptions(
        folder,
        host,
        port,
        chosen_device(device),
        workers,
        Limits(max_upload * 2**20, max_pixels * 2**20, queue),
        token,
    )
    serve(order, lambda address: console.say(f"Serving {model} at {address}"))
    console.say("Ended.")


if __name__ == "__main__":
    run(app)
