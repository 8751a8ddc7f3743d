"""`python -m usseg_ray.predict`: a model, a place full of images, and masks of all of them."""

from pathlib import Path
from typing import Annotated

import typer

from usseg_ray.core.cli import Computing, ModelPlace, Version, console, image_bar, make_app, run

app = make_app()


@app.command()
def main(
    *,
    model: ModelPlace,
    images: Annotated[str, typer.Option(help="An image, a folder of images, or a URI of one.")],
    out: Annotated[
        str, typer.Option(help="Folder or URI; names in it mirror those of the images.")
    ],
    save: Annotated[
        str,
        typer.Option(
            metavar="FORMATS",
            help="One or several, with commas between them: png, overlay, confidence, segments, "
            "parquet, coco, cvat, label-studio, geotiff, geojson, geopackage.",
        ),
    ] = "png",
    tile: Annotated[
        int | None,
        typer.Option(
            help="See images through square tiles of as many pixels, each as an image is seen: for "
            "images of any size.",
            show_default="whole images",
        ),
    ] = None,
    overlap: Annotated[
        float, typer.Option(help="Share of a tile that its neighbour has too.")
    ] = 0.25,
    refine: Annotated[
        str | None,
        typer.Option(
            metavar="REFINERS",
            help="What is made of the scores: guided (they follow the edges of the image), "
            "anyup (upsampled by attention, with weights of one's own), flip (the mean with its "
            "mirror image), sliding, crf; joined by +, as flip+guided.",
            show_default="none",
        ),
    ] = None,
    device: Computing = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace what another model, other names, options or images made."
        ),
    ] = False,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Segment images with a trained model, and save what it finds in one or several formats.

    Running it again goes on where it was: what is there whole, by the same model, names and
    options, is not done again. Images that cannot be used are counted and named in
    quarantine.jsonl.
    """
    folder = located(model)
    # torch, Ray, MLflow: neither for --help nor for what is not there.
    from usseg_ray.core.machine import chosen_device  # noqa: PLC0415
    from usseg_ray.outputs.formats import parse_formats  # noqa: PLC0415
    from usseg_ray.outputs.run import PredictionRun, predict  # noqa: PLC0415
    from usseg_ray.outputs.tiles import Tiling  # noqa: PLC0415

    formats = parse_formats(save)
    tiling = None if tile is None else Tiling(tile, overlap)
    with image_bar("Segmenting") as on_progress:
        found: PredictionRun = predict(
            folder,
            images,
            out,
            formats=formats,
            tiling=tiling,
            refine=refine,
            overwrite=overwrite,
            device=chosen_device(device),
            on_progress=on_progress,
        )
    for line in summary_lines(found):
        console.say(line)


def located(place: str) -> Path:
    """Finds a model; only one of MLflow's registry takes MLflow.

    Args:
        place: As `--model`.
    """
    if place.startswith("models:/"):
        from usseg_ray.tracking import model  # noqa: PLC0415 (see `main`)

        return model.find_model_anywhere(place)
    from usseg_ray.models.find import find_model  # noqa: PLC0415 (see `main`)

    return find_model(place)


def summary_lines(found: object) -> list[str]:
    """Says what a run did, a line each.

    Args:
        found: An `outputs.run.PredictionRun`.
    """
    from usseg_ray.outputs.run import QUARANTINE, PredictionRun  # noqa: PLC0415

    if not isinstance(found, PredictionRun):
        raise TypeError(type(found))
    lines = list(found.notes)
    if found.bad:
        what = "1 image" if len(found.bad) == 1 else f"{len(found.bad)} images"
        lines.append(f"{what} cannot be used: {found.out}/{QUARANTINE}")
    kept = f", {found.kept} were there" if found.kept else ""
    rate = f", {found.written / found.seconds:.1f} images/s" if found.written else ""
    lines.append(f"{found.written} images segmented{kept}{rate}: {found.out}")
    return lines


if __name__ == "__main__":
    run(app)
