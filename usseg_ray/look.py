"""`python -m usseg_ray.look`: what a model's clusters are, as a page on which they are named."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from usseg_ray.core.cli import Version, console, make_app, run

app = make_app()


@app.command()
def main(
    *,
    model: Annotated[
        str,
        typer.Option(
            help="A run (its name under ./runs, or its folder), a model's or a trial's folder, or "
            "hf://OWNER/NAME."
        ),
    ],
    images: Annotated[
        str, typer.Option(help="An image, a folder of images, or a URI of one: what to look at.")
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("gallery.html"),
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")
    ] = "auto",
    version: Version = False,  # noqa: ARG001
) -> None:
    """Show what a model's clusters are: one HTML page that needs nothing else.

    Each has its typical and borderline patches, its neighbours and the images that it fills; names
    that are filled in there become a names.yaml for the command name.
    """
    from usseg_ray.models.find import find_model  # noqa: PLC0415

    folder = find_model(model)
    # torch: neither for --help nor for what is not there
    from usseg_ray.core.machine import chosen_device  # noqa: PLC0415
    from usseg_ray.outputs.gallery.page import write_gallery  # noqa: PLC0415
    from usseg_ray.sweeps.own.drawn import drawn  # noqa: PLC0415

    found = write_gallery(folder, images, out, pictures=drawn(folder), device=chosen_device(device))
    console.say(f"{len(found.seen)} of {found.images} images seen: {out}")


if __name__ == "__main__":
    run(app)
