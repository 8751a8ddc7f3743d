"""`python -m usseg_ray.push`: a model to the Hugging Face Hub."""

from typing import Annotated

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, console, make_app, run

app = make_app()


@app.command()
def main(
    model: Annotated[
        str,
        typer.Option(
            help="A run (its name under ./runs, or its folder), a model's or a trial's folder, or "
            "models:/NAME@champion."
        ),
    ],
    to: Annotated[str, typer.Option(help="hf://OWNER/NAME; made where it is missing.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see a repository that is made.")
    ] = False,
    tracking_uri: cli.TrackingUri = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Upload a model, with its card: weights, model.yaml, and the backbone's weights beside them.

    The data that it learnt from stays here. Whether its backbone's licence lets you pass its
    weights on stands in the card.
    """
    # Its imports: not for --help.
    from usseg_ray.models.hub import push  # noqa: PLC0415
    from usseg_ray.tracking.model import find_model_anywhere  # noqa: PLC0415

    address = push(find_model_anywhere(model, tracking_uri), to, private=not public)
    console.say(f"{address}\nAnybody who may see it: usseg_ray.load({to!r})")


if __name__ == "__main__":
    run(app)
