"""`python -m usseg_ray.import_checkpoint`: an official checkpoint as a model, or as a backbone."""

from pathlib import Path
from typing import Annotated

import typer

from usseg_ray.core import cli
from usseg_ray.core.cli import Version, console, make_app, run
from usseg_ray.core.errors import UserError

app = make_app()


@app.command()
def main(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="STEGO's or SmooSeg's .ckpt, HP's ckpt.pth, PiCIE's checkpoint.pth.tar, or "
            "CAUSE's segment_*.pth, cluster_*.pth and modular.npy together; or the weights of "
            "Leopart, CrIBo, NeCo or DIP."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model, or of the backbone.")],
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

    Of weights that Leopart, CrIBo, NeCo or DIP published, or of a ViT of their form, it makes a
    file for `--backbone`. Tensors alone are read, in a process of its own; nothing that a file
    holds is run.
    """
    # torch: not for --help
    from usseg_ray.features.presets import backbone_settings  # noqa: PLC0415
    from usseg_ray.models.official import backbones  # noqa: PLC0415
    from usseg_ray.models.official.convert import convert, read_checkpoint  # noqa: PLC0415
    from usseg_ray.models.official.layouts import is_method  # noqa: PLC0415
    from usseg_ray.sweeps.space import parse_assignments  # noqa: PLC0415

    tensors = read_checkpoint(files)
    if backbones.holds_backbone(tensors) and not is_method(tensors):
        if backbone or assign:
            raise UserError("these are a backbone's weights: leave out --backbone and --set.")
        name = backbones.convert_backbone(tensors, out, f"weights of {files[0].name}")
        console.say(f"{name}; take it by --backbone {out / backbones.FILE}")
        return
    network = backbone_settings(backbone) if backbone else {}
    about = convert(tensors, out, network | parse_assignments(assign))
    console.print(
        f"{out}: {about.method}, K = {about.num_clusters}, on {about.backbone.name}. No score is "
        "known of it here; look at what it finds in your images first.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run(app)
