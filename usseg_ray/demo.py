"""`python -m usseg_ray.demo`: a page to drop an image on, and see what a model makes of it."""

import webbrowser
from typing import Annotated

import typer

from usseg_ray.core.cli import Computing, ModelPlace, TrackingUri, Version, console, make_app, run

app = make_app()


@app.command()
def main(
    *,
    model: ModelPlace,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    device: Computing = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    tracking_uri: TrackingUri = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Try a model in a browser: drop an image, see its segments with names and confidence.

    The page is this machine's alone; `serve` is what other machines reach. Ctrl-C ends it.
    """
    from usseg_ray.tracking.model import find_model_anywhere  # noqa: PLC0415

    folder = find_model_anywhere(model, tracking_uri)
    # torch, Ray: neither for --help nor for what is not there.
    from usseg_ray.core.machine import chosen_device  # noqa: PLC0415
    from usseg_ray.serve.serving import ServeOptions, check_extra, serve  # noqa: PLC0415

    def started(address: str) -> None:
        console.say(f"Try {model} at {address}")
        if open_page:
            webbrowser.open(address)

    check_extra()
    serve(ServeOptions(folder, "127.0.0.1", port, chosen_device(device), page=True), started)
    console.print("Ended.")


if __name__ == "__main__":
    run(app)
