"""What `import usseg_ray` offers, loaded when it is first asked for.

The same functions stand behind the commands, so that both do the same.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from usseg_ray.export.formats import Export, Format
    from usseg_ray.models.loaded import LoadedModel
    from usseg_ray.sweeps.own.fitting import FitResult
    from usseg_ray.sweeps.own.results import PreparedSet, SweepResult


def load(
    place: "str | Path",
    *,
    device: str | None = None,
    refine: str | None = None,
    tracking_uri: str | None = None,
) -> "LoadedModel":
    """Loads a model.

    Args:
        place: A run (its name under ./runs, or its folder), a model's or a trial's folder,
            `models:/NAME@champion` or `hf://OWNER/NAME`.
        device: `cpu` or `cuda`; a GPU if there is one and this is unset.
        refine: What is made of scores, as `--refine` of `predict`: `guided`, `flip+guided`.
        tracking_uri: The MLflow store of `models:/`; as for a sweep if unset.

    Returns:
        What has `predict`.

    Raises:
        UserError: There is none, or it cannot be opened; says what to do.
    """
    # torch: not for `import usseg_ray`.
    import torch  # noqa: PLC0415

    from usseg_ray.models.loaded import LoadedModel  # noqa: PLC0415
    from usseg_ray.models.segmenter import Segmenter  # noqa: PLC0415
    from usseg_ray.scoring.protocols import PLAIN, Refinement  # noqa: PLC0415
    from usseg_ray.tracking.model import find_model_anywhere  # noqa: PLC0415

    refinement = Refinement.parse(refine) if refine else PLAIN
    found = find_model_anywhere(str(place), tracking_uri)
    computing = torch.device(device) if device else None
    return LoadedModel(Segmenter.open(found, computing, refinement))


def fit(
    source: "str | Path | None" = None,
    *,
    out: "str | Path | None" = None,
    resume: "str | Path | None" = None,
    bands: str | None = None,
    methods: Sequence[str] = (),
    backbone: str | None = None,
    num_samples: int | None = None,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    names_of: "str | Path | None" = None,
    tracking_uri: str | None = None,
) -> "FitResult":
    """Segments photographs without labels, as `usseg-ray fit` does.

    Args:
        source: Folder, URI, Parquet file or WebDataset archive of images.
        out: The new run's folder.
        resume: A run to go on with, in place of `out`.
        bands: As `--bands`.
        methods: Which are compared; as `usseg-ray fit` if empty.
        backbone: As `--backbone`.
        num_samples: Values of K that are tried.
        seeds: With which each is tried.
        settings: Dotted keys and values, as `--set`.
        names_of: A model whose names the new one takes over.
        tracking_uri: As `--tracking-uri`.

    Returns:
        Run, model, masks and the verdict on K.

    Raises:
        UserError: Something is wrong with the images or the options; says what to do.
    """
    # torch, Ray: not for `import usseg_ray`.
    from usseg_ray.sweeps.own import fitting  # noqa: PLC0415
    from usseg_ray.sweeps.request import FITTED  # noqa: PLC0415

    return fitting.fit(
        None if source is None else str(source),
        out=None if out is None else str(out),
        resume=None if resume is None else str(resume),
        bands=bands,
        methods=tuple(methods) or FITTED,
        backbone=backbone,
        num_samples=num_samples or fitting.COUNTS,
        seeds=seeds or fitting.SEEDS,
        assigned=dict(settings or {}),
        names_of=None if names_of is None else str(names_of),
        tracking_uri=tracking_uri,
    )


def sweep(
    data: "str | Path",
    *,
    methods: Sequence[str] = ("acseg",),
    out: "str | Path | None" = None,
    backbone: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401 (fields of a request, which checks them)
) -> "SweepResult":
    """Sweeps methods, as `usseg-ray tune` does.

    Args:
        data: A prepared set, or images that are not prepared yet.
        methods: Which are swept, each with its own search space.
        out: The new run's folder.
        backbone: As `--backbone`.
        settings: Dotted keys and values, as `--set`.
        options: What else `tune` takes, by its name: num_samples, question, objective, seeds, ...

    Returns:
        The trials, the best first, and the run's folder.

    Raises:
        UserError: Something is wrong with the data or the options; says what to do.
    """
    # torch, Ray: not for `import usseg_ray`.
    from usseg_ray.sweeps.own.results import run_own_sweep  # noqa: PLC0415

    place = None if out is None else str(out)
    return run_own_sweep(str(data), tuple(methods), place, backbone, dict(settings or {}), options)


def prepare(
    source: "str | Path",
    out: "str | Path | None" = None,
    *,
    name: str | None = None,
    bands: str | None = None,
) -> "PreparedSet":
    """Makes a prepared set of images, as `usseg-ray prepare` does.

    Args:
        source: Folder of images in a layout of docs/data.md.
        out: Folder or URI of the set; a folder of its name in the cache if unset.
        name: What the set is called; the source's name if unset.
        bands: As `--bands`.

    Returns:
        Where it is, and what it holds.

    Raises:
        UserError: The source cannot be used, or `out` holds another set.
    """
    # Ray: not for `import usseg_ray`.
    from usseg_ray.data.scaling import parse_bands  # noqa: PLC0415
    from usseg_ray.prepare.write import prepare as write  # noqa: PLC0415
    from usseg_ray.sweeps.own.results import PreparedSet  # noqa: PLC0415

    return PreparedSet(write(source, out, name=name, bands=parse_bands(bands)))


def export(
    model: "str | Path",
    out: "str | Path",
    *,
    format: "Format" = "onnx",  # noqa: A002 (as the option)
    check: bool = False,
    images: "str | Path | None" = None,
    tracking_uri: str | None = None,
) -> "Export":
    """Writes a model for elsewhere, as `usseg-ray export` does.

    Args:
        model: As `load` takes it.
        out: The file, or the folder; nothing may be there.
        format: `onnx`, `pyfunc` or `safetensors`.
        check: Run the graph in onnxruntime beside torch before it is kept.
        images: What the check looks at, a file or a folder; scenes that are drawn if unset.
        tracking_uri: The MLflow store of `models:/`; as for a sweep if unset.

    Returns:
        What was written, and what the check found.

    Raises:
        UserError: There is no such model, something is there, a package is missing, or the model
            cannot be written so.
    """
    # torch: not for `import usseg_ray`.
    from pathlib import Path  # noqa: PLC0415

    from usseg_ray.export.formats import export as write  # noqa: PLC0415

    seen = None if images is None else Path(images)
    return write(str(model), Path(out), format, check=check, images=seen, tracking_uri=tracking_uri)
