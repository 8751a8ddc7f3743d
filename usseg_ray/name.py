"""`python -m usseg_ray.name`: names, colours, merges, splits and what is left out, into a model."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usseg_ray.core.cli import Version, console, make_app, run
from usseg_ray.core.errors import UserError

if TYPE_CHECKING:
    from usseg_ray.models.names import Names

app = make_app()

_ELSEWHERE = ("models:/", "hf://")


@app.command()
def main(
    names: Annotated[
        Path | None,
        typer.Argument(
            help="A names.yaml: such as 0: {name: road, colour: '#804080'}, or 3: {split: 2} to "
            "make cluster 3 two; clusters and keys that it leaves out stay as they are. Without "
            "one, the model's own are printed."
        ),
    ] = None,
    *,
    model: Annotated[
        str, typer.Option(help="A run (its name under ./runs, or its folder), or a model's folder.")
    ],
    names_of: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Take over the names of another model, such as the one before training again: "
            "each cluster has that of the one that covers the same pixels of --images.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="For --names-of: images that both models look at. For a split: what is in the "
            "cluster is looked for in them."
        ),
    ] = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Name a model's clusters: everything that it makes from then on says so.

    To begin: usseg-ray look, whose page makes a names.yaml, or usseg-ray name --model RUN
    """
    # torch: not for --help
    from usseg_ray.models.description import read_description, write_description  # noqa: PLC0415
    from usseg_ray.models.find import find_model  # noqa: PLC0415
    from usseg_ray.models.names import Names  # noqa: PLC0415

    if model.startswith(_ELSEWHERE):
        raise UserError(
            f"--model {model}: names are written into a folder of this machine. Name the run's "
            "model, and register or push it again."
        )
    folder = find_model(model)
    if names_of is not None:
        if names is not None or images is None:
            raise UserError("--names-of takes --images, and no names.yaml beside it.")
        _take_over(folder, names_of, images)
        return
    known = read_description(folder)
    if names is None:
        typer.echo(known.names.text(), nl=False)
        return
    given = Names.read(names, known.names)
    splits = [cluster for cluster, name in enumerate(given.clusters) if name.split]
    if splits:
        if images is None:
            raise UserError(
                f"{names}: cluster {splits[0]} is to be split: give the photographs that the model "
                "learnt from, --images FOLDER."
            )
        _split(folder, given, images)
        return
    write_description(known.model_copy(update={"names": given}), folder)
    changed = sum(
        one != other for one, other in zip(given.clusters, known.names.clusters, strict=True)
    )
    outputs = ", ".join(given.clusters[output].name for output in given.outputs)
    console.say(
        f"{changed} of {len(given)} clusters changed in {folder}. Label maps have: {outputs}."
    )


def _split(folder: Path, given: "Names", images: str) -> None:
    # torch: not for --help
    from usseg_ray.core.machine import chosen_device  # noqa: PLC0415
    from usseg_ray.outputs.gallery.split import split  # noqa: PLC0415

    for line in split(folder, given, images, chosen_device(None)).lines():
        console.say(line)
    place, shown = shlex.quote(str(folder)), shlex.quote(images)
    console.say(f"To see and name both: usseg-ray look --model {place} --images {shown}")


def _take_over(folder: Path, names_of: str, images: str) -> None:
    # torch: not for --help
    from usseg_ray.core.machine import chosen_device  # noqa: PLC0415
    from usseg_ray.models.find import find_model  # noqa: PLC0415
    from usseg_ray.outputs.gallery.carry import take_over  # noqa: PLC0415

    for line in take_over(find_model(names_of), folder, images, chosen_device(None)).lines():
        console.say(line)


if __name__ == "__main__":
    run(app)
