"""The formats of an export: each appears whole under its name, or not at all."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole
from usseg_ray.export.check import RUNTIME, Comparison, compare_with_torch, tiles_of
from usseg_ray.export.folder import write_folder
from usseg_ray.export.graph import WRITERS, TileGraph, require, to_onnx
from usseg_ray.models.description import Description
from usseg_ray.models.segmenter import Segmenter
from usseg_ray.tracking.model import find_model_anywhere, save_mlflow_model

Format = Literal["onnx", "pyfunc", "safetensors"]

ONNX: Format = "onnx"


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: A file of ONNX, or a folder.
        format: Which.
        description: Of the model.
        compared: onnxruntime beside torch, where that was asked for.
    """

    path: Path
    format: Format
    description: Description
    compared: Comparison | None = None


def export(
    model: str,
    out: Path,
    form: Format = ONNX,
    *,
    check: bool = False,
    images: Path | None = None,
    tracking_uri: str | None = None,
) -> Export:
    """Writes a model for elsewhere.

    Args:
        model: A run, a model's or a trial's folder, `models:/NAME@champion` or `hf://OWNER/NAME`.
        out: The file, or the folder; neither is there yet.
        form: `onnx`: a graph of tiles. `pyfunc`: a folder that `mlflow.pyfunc.load_model` reads.
            `safetensors`: a model's folder with its backbone's weights in it.
        check: Run what is written as ONNX beside torch before it is kept.
        images: What the check looks at, a file or a folder; scenes that are drawn if unset.
        tracking_uri: The MLflow store of `models:/`; as for a sweep if unset.

    Returns:
        What was written.

    Raises:
        UserError: There is no such model, something is there, a package is missing, or the model
            cannot be written so.
    """
    out = out.expanduser().absolute()
    _check_options(out, form, check=check, images=images)
    source = find_model_anywhere(model, tracking_uri)
    segmenter = Segmenter.open(source, torch.device("cpu"))
    if form != ONNX:
        _write_folder(segmenter, source, out, form)
        return Export(out, form, segmenter.description)
    content, compared = to_onnx(segmenter), None
    if check:
        tiles, of = tiles_of(images, segmenter.description.preprocessing)
        compared = compare_with_torch(content, TileGraph(segmenter).eval(), tiles, of)
    write_whole(out, content)
    return Export(out, form, segmenter.description, compared)


def _check_options(out: Path, form: Format, *, check: bool, images: Path | None) -> None:
    if out.exists():
        raise UserError(f"--out {out}: something is there. Name another place, or remove it.")
    if check and form != ONNX:
        raise UserError(f"--check runs a graph beside torch; {form} is the model itself.")
    if images is not None and not check:
        raise UserError("--images is what --check looks at: give both.")
    if images is not None and not images.exists():
        raise UserError(f"--images {images}: no such file or folder.")
    if form == ONNX:
        require(WRITERS + (RUNTIME if check else ()))


def _write_folder(segmenter: Segmenter, source: Path, out: Path, form: Format) -> None:
    """Fills a folder beside its place, and moves it there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as place:
        whole = Path(place) / "model"
        write_folder(segmenter, source, whole)
        if form == "pyfunc":
            save_mlflow_model(whole, Path(place) / form)
            whole = Path(place) / form
        whole.replace(out)
