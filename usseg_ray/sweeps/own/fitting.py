"""From photographs to masks without labels and without a choice: what `fit` does.

The images prepare themselves, method and K are chosen by a sweep of K without labels
(`sweeps.k`), the model of the choice is kept, and every image gets a mask (`outputs.run`). Each of
these steps finds what an earlier call did, so a broken-off one goes on.
"""

import html
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usseg_ray.core.cli import CONSOLE, console, image_bar
from usseg_ray.core.config import BackboneConfig, DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri
from usseg_ray.core.machine import chosen_device
from usseg_ray.data.library import is_prepared, open_data
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.scaling import parse_bands
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.presets import PRESETS, backbone_settings
from usseg_ray.features.textons import TEXTONS
from usseg_ray.models.description import read_description
from usseg_ray.models.find import KEPT, find_model
from usseg_ray.ops import context
from usseg_ray.outputs.gallery.carry import take_over
from usseg_ray.outputs.gallery.page import GALLERY, write_gallery
from usseg_ray.outputs.manifest import Folder
from usseg_ray.outputs.places import ImageFiles, find_images
from usseg_ray.outputs.run import PredictionRun, check_room, header_of, predict
from usseg_ray.prepare.own import image_folder, is_raw, prepare_own
from usseg_ray.prepare.packed import KEPT as COPIES
from usseg_ray.scoring.objective import WITHOUT_LABELS
from usseg_ray.sweeps.k.answer import ANSWER, maps_path
from usseg_ray.sweeps.launch import launch, reopened
from usseg_ray.sweeps.own.drawn import drawn
from usseg_ray.sweeps.request import FITTED, Request, with_spaces

OUTPUTS, FORMATS = "outputs", ("png", "overlay")
"""Where in a run's folder what `predict` makes of its images lies, and in which formats."""

COUNTS, SEEDS = 4, 3

FRAME = 224

STEPS = (15, 500)
"""Fewest and most steps of a trial; between them, one for every two images."""


@dataclass(frozen=True)
class FitResult:
    """What `fit` made of photographs; shows itself in a notebook.

    Attributes:
        run: The run's folder.
        model: Folder of its model.
        gallery: The page that shows its clusters, and has them named.
        outputs: What `predict` wrote: `masks` and `overlays`, named after their images.
        images: How many have both.
        method: The method that was chosen.
        num_clusters: K.
        verdict: How many clusters, how sure that is, and what speaks against it.
        backbone: Which network the model reads, and the word that changes it.
    """

    run: Path
    model: Path
    gallery: Path
    outputs: Path
    images: int
    method: str
    num_clusters: int
    verdict: str
    backbone: str

    @property
    def commands(self) -> dict[str, str]:
        """What one can go on with -> its command."""
        run, name = shlex.quote(str(self.run)), shlex.quote(self.run.name)
        return {
            "a page about the run": f"{CONSOLE} report --sweep {name} --out report.html",
            "names from that page": f"{CONSOLE} name names.yaml --model {run}",
            "masks of other images": f"{CONSOLE} predict --model {run} --images FOLDER --out MASKS",
            "to try it in a browser": f"{CONSOLE} demo --model {run}",
            "masks of images that you add": f"{CONSOLE} fit FOLDER --resume {run}",
            "train on them too": f"{CONSOLE} fit FOLDER --names-of {run}",
            "in Python": f"usseg_ray.load({str(self.run)!r}).predict('image.jpg')",
        }

    def lines(self) -> list[str]:
        """Says it all, a line each."""
        how = [f"{what}: {command}" for what, command in self.commands.items()]
        maps = maps_path(self.run, self.method)
        return [
            self.verdict,
            f"{self.method}, K = {self.num_clusters}; model: {self.model}",
            f"What its clusters are, to look at and to name: {self.gallery}",
            f"Masks of {self.images} images, plain and over the image: {self.outputs}",
            *([f"Label maps under every K, side by side: {maps}"] if maps.exists() else []),
            *how,
            self.backbone,
        ]

    def _repr_html_(self) -> str:
        return "".join(f"<div>{html.escape(line)}</div>" for line in self.lines())


def fit(
    source: str | None,
    *,
    out: str | None = None,
    resume: str | None = None,
    bands: str | None = None,
    methods: tuple[str, ...] = FITTED,
    backbone: str | None = None,
    num_samples: int = COUNTS,
    seeds: int = SEEDS,
    assigned: dict[str, Any] | None = None,
    names_of: str | None = None,
    tracking_uri: str | None = None,
) -> FitResult:
    """Segments photographs without labels.

    Args:
        source: Folder, URI, Parquet file or WebDataset archive of images; `None` for those of the
            run that is resumed.
        out: The new run's folder.
        resume: A run to go on with: one that was broken off is ended, then images without a mask
            get one from its model, also those that were added since.
        bands: As `prepare --bands`; a run that is resumed keeps its own.
        methods: Which are compared.
        backbone: As `--backbone`; the default where its weights can be had, else textons.
        num_samples: Values of K that are tried.
        seeds: With which each is tried.
        assigned: Dotted keys and values, above all else.
        names_of: A model whose names its own takes over, by what both see in the images.
        tracking_uri: As `--tracking-uri`.

    Returns:
        Where everything is.

    Raises:
        UserError: Something is wrong with the images, the options or the place; says what to do.
    """
    named = None if names_of is None else find_model(names_of)
    if resume is not None:
        run, request = reopened(resume)
        images = str(image_folder(source)) if source is not None else _images_of(request.data)
        _refuse_others(_check_room(images, run), run)
        if not (run / KEPT).is_dir():
            launch(None, None, resume, dry_run=False, again=f"{CONSOLE} fit")
    elif source is not None:
        images = str(image_folder(source))
        network, said = choose_backbone(backbone, assigned or {})
        console.say(said)
        _check_room(images, Path(out or "."))
        root, manifest = open_data(DataConfig(name=_set_of(source, bands)))
        request = Request(
            methods=with_spaces(list(methods), None),
            data=root,
            assigned=network | schedule(manifest) | (assigned or {}),
            num_samples=num_samples,
            question="k",
            seeds=seeds,
            finalists=0,
            objective=WITHOUT_LABELS,
            tracking_uri=tracking_uri,
        )
        run = launch(request, out, None, dry_run=False, again=f"{CONSOLE} fit")
    else:
        raise UserError(f"which images? {CONSOLE} fit FOLDER, or {CONSOLE} fit --resume RUN")
    if named is not None:
        console.say("\n".join(take_over(named, run / KEPT, images, chosen_device(None)).lines()))
    made = _masks(images, run)
    _show(images, run)
    found = _fitted(run, made)
    for line in found.lines():
        console.say(line)
    return found


def _images_of(data: str) -> str:
    """Says where the images of a prepared set came from.

    Raises:
        UserError: They are not there any more.
    """
    source = open_data(DataConfig(name=data))[1].source
    if not is_uri(source) and not Path(source).exists():
        raise UserError(
            f"{data}: its images are no longer at {source}. Name their folder: "
            f"{CONSOLE} fit FOLDER --resume RUN"
        )
    return source


def _check_room(images: str, run: Path) -> ImageFiles:
    """Lists the images; refuses a disk that would be full before all have their masks."""
    out = str(run / OUTPUTS)
    found = find_images(images, out)
    check_room(out, found.found, found, FORMATS)
    return found


def _refuse_others(found: ImageFiles, run: Path) -> None:
    """Refuses images of another folder than the masks', if that is there yet and no copy."""
    header = header_of(Folder(str(run / OUTPUTS)))
    if header is None or header.images in ("", found.folder):
        return
    before = Path(header.images)
    if before.is_dir() and not before.is_relative_to(COPIES.resolve()):
        raise UserError(
            f"{run}: its masks are of {before}. For other images: {CONSOLE} predict --model "
            f"{shlex.quote(str(run))} --images {shlex.quote(found.place)} --out MASKS"
        )


def schedule(manifest: Manifest) -> dict[str, Any]:
    """Lists settings of short trials, by the number of images; what is alike is grouped alike."""
    images = sum(split.rows for split in manifest.splits.values())
    few, many = STEPS
    return {
        "data.train_size": FRAME,
        "data.eval_size": FRAME,
        "train.epochs": 1,
        "train.steps_per_epoch": min(max(images // 2, few), many),
        "train.batch_size": 16,
        "method.context": context.USUAL,
    }


def choose_backbone(given: str | None, assigned: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Chooses the network, and has its weights before anything starts.

    Args:
        given: `--backbone`.
        assigned: What `--set` says.

    Returns:
        Its settings, and a line that says which it is and what changes it.
    """
    if given is not None:
        return backbone_settings(given), f"Backbone: {given}."
    if any(key.startswith("backbone.") for key in assigned):
        return {}, "Backbone: as --set says."
    default = BackboneConfig()
    (name,) = (preset.name for preset in PRESETS if preset.config.name == default.name)
    try:
        build_backbone(default)
    except Exception as error:  # noqa: BLE001 (a download fails in any way that a network does)
        why = str(error).splitlines()[0].split("(")[0].strip()
        return {"backbone.name": TEXTONS}, (
            f"Backbone: {TEXTONS}, colours and filters without weights. {why}\n"
            f"A network sees more: --backbone {name} once its weights are here."
        )
    return {}, f"Backbone: {name}. --backbone {TEXTONS} needs no weights and is quicker."


def ready(data: str) -> str:
    """Makes a prepared set of images that are none yet.

    Args:
        data: What `--data` names: a prepared set, or images as `prepare_own` takes them.

    Returns:
        The set as `--data` takes it.
    """
    return _prepared(data) if is_raw(data) else data


def _set_of(source: str, bands: str | None) -> str:
    """Names the set of a folder's images, whatever other sets have its name."""
    place = source if is_uri(source) else str(Path(source).expanduser().resolve())
    return place if is_prepared(place) else _prepared(source, bands)


def _prepared(source: str, bands: str | None = None) -> str:
    """Makes a set or finds it; shows progress and says what there is."""
    with image_bar("Reading images") as on_progress:
        own = prepare_own(source, on_progress=on_progress, bands=parse_bands(bands))
    console.say(own.found)
    for note in own.notes:
        console.say(note)
    return own.prepared.out


def _masks(images: str, run: Path) -> PredictionRun:
    """Has every image segmented that is not yet, by the run's model as it is named now."""
    with image_bar("Writing masks") as on_progress:
        return predict(
            run / KEPT,
            images,
            str(run / OUTPUTS),
            formats=FORMATS,
            overwrite=True,
            device=chosen_device(None),
            on_progress=on_progress,
        )


def _show(images: str, run: Path) -> None:
    """Writes the page of the run's model, as it is named now."""
    with image_bar("Looking at clusters") as on_progress:
        write_gallery(
            run / KEPT,
            images,
            run / GALLERY,
            pictures=drawn(run / KEPT),
            device=chosen_device(None),
            on_progress=on_progress,
        )


def _fitted(run: Path, made: PredictionRun) -> FitResult:
    about = read_description(run / KEPT)
    said = run / ANSWER / f"{about.method}.json"
    verdict = json.loads(said.read_bytes())["verdict"] if said.is_file() else ""
    network = about.backbone.name
    change = f"--backbone {PRESETS[1].name}" if network == TEXTONS else f"--backbone {TEXTONS}"
    return FitResult(
        run,
        run / KEPT,
        run / GALLERY,
        run / OUTPUTS,
        made.written + made.kept,
        about.method,
        about.num_clusters,
        verdict,
        f"Backbone: {network}; {change} takes another.",
    )
