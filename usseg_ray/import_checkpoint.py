"""`python -m usseg_ray.import_checkpoint`: an official checkpoint as a model."""

from pathlib import Path
from typing import Annotated

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, console, make_app, run

app = make_app()


@app.command()
def main(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="STEGO's or SmooSeg's .ckpt, HP's ckpt.pth, PiCIE's checkpoint.pth.tar, or "
            "CAUSE's segment_*.pth, cluster_*.pth and modular.npy together."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.yaml",
            help="What the method reads; files that hold it bring it, else it is DINO's ViT of "
            "8-pixel patches.",
        ),
    ] = None,
    assign: cli.Set = [],  # noqa: B006 (typer copies it)
    version: Version = False,  # noqa: ARG001
) -> None:
    """Make a model of a checkpoint of STEGO, HP, CAUSE, SmooSeg or PiCIE's official code.

    Its tensors alone are read, in a process of its own; nothing that the file holds is run.
    """
    # torch: not for --help
    from usseg_ray.features.presets import backbone_settings  # noqa: PLC0415
    from usseg_ray.models.official.convert import convert  # noqa: PLC0415
    from usseg_ray.sweeps.space import parse_assignments  # noqa: PLC0415

    network = backbone_settings(backbone) if backbone else {}
    about = convert(files, out, network | parse_assignments(assign))
    console.print(
        f"{out}: {about.method}, K = {about.num_clusters}, on {about.backbone.name}. No score is "
        "known of it here; look at what it finds in your images first.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run(app)
