"""`python -m usseg_ray.export`: a model as ONNX, for MLflow, or with all that it needs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, console, make_app, run

app = make_app()


@app.command()
def main(
    *,
    model: Annotated[
        str,
        typer.Option(
            help="A run (its name under ./runs, or its folder), a model's or a trial's folder, "
            "models:/NAME@champion, or hf://OWNER/NAME."
        ),
    ],
    form: Annotated[
        Literal["onnx", "pyfunc", "safetensors"],
        typer.Option(
            "--format",
            help="onnx: one graph of square tiles, for onnxruntime in any language. pyfunc: a "
            "folder for mlflow.pyfunc.load_model. safetensors: a model's folder with the weights "
            "of its backbone in it.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file, or the folder; nothing may be there.")],
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Run the graph in onnxruntime beside torch before it is kept; print the largest "
            "difference, and how quick it is.",
        ),
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            help="What --check looks at: an image, or a folder of them.",
            show_default="scenes that are drawn",
        ),
    ] = None,
    tracking_uri: cli.TrackingUri = None,
    version: Version = False,  # noqa: ARG001
) -> None:
    """Write a model for elsewhere."""
    # torch: not for --help
    from usseg_ray.export.formats import export  # noqa: PLC0415

    done = export(model, out, form, check=check, images=images, tracking_uri=tracking_uri)
    about, found = done.description, done.compared
    lines = [f"{done.path}: {about.method}, K = {about.num_clusters}, on {about.backbone.name}"]
    if done.format == "onnx":
        side = about.preprocessing.size
        lines[0] += f"; tiles of {side} x {side} pixels, any number at a time"
    if found is not None:
        lines.append(
            f"onnxruntime beside torch on {found.source}: largest difference "
            f"{found.difference:.1e}, {found.speed:.2f} times as fast"
        )
    if about.backbone.limits:
        lines.append(f"Licence of the backbone's weights: {about.backbone.limits}")
    for line in lines:
        console.say(line)


if __name__ == "__main__":
    run(app)
