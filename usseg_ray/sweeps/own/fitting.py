"""From photographs to masks without labels and without a choice: what `fit` does.

The images prepare themselves, method and K are chosen by a sweep of K without labels
(`k_trials`, `k_answer`), the model of the choice is kept, and every image gets a mask. Each of
these steps finds what an earlier call did, so a broken-off one goes on.
"""

import html
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from usseg_ray.core.cli import CONSOLE, console
from usseg_ray.core.config import BackboneConfig, DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.data.library import open_data
from usseg_ray.data.manifest import Manifest
from usseg_ray.features.backbones import TEXTONS, build_backbone
from usseg_ray.features.presets import PRESETS, backbone_settings
from usseg_ray.models.find import KEPT
from usseg_ray.models.folder import read_model
from usseg_ray.prepare.own import is_raw, prepare_own
from usseg_ray.scoring.objective import WITHOUT_LABELS
from usseg_ray.sweeps.k.answer import ANSWER
from usseg_ray.sweeps.launch import launch, reopened
from usseg_ray.sweeps.own.masks import MASKS, Masks, check_room, write_masks
from usseg_ray.sweeps.request import Request, with_spaces

METHODS = ("kmeans", "acseg")
"""What is compared where no method is named: nothing learnt, and the quickest that learns."""

COUNTS, SEEDS = 4, 3

FRAME = 224

STEPS = (15, 500)
"""Fewest and most steps of a trial; between them, one for every two images."""


@dataclass(frozen=True)
class Fitted:
    """What `fit` made of photographs; shows itself in a notebook.

    Attributes:
        run: The run's folder.
        model: Folder of its model.
        masks: Folder of the masks, named after their images.
        images: How many masks there are.
        method: The method that was chosen.
        num_clusters: K.
        verdict: How many clusters, how sure that is, and what speaks against it.
        backbone: Which network the model reads, and the word that changes it.
    """

    run: Path
    model: Path
    masks: Path
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
            "a page about the run": f"{CONSOLE} report {name} --out report.html",
            "masks of images that you add": f"{CONSOLE} fit FOLDER --resume {run}",
            "train on them too": f"{CONSOLE} fit FOLDER",
            "in Python": f"usseg_ray.load({str(self.run)!r}).predict('image.jpg')",
        }

    def lines(self) -> list[str]:
        """Says it all, a line each."""
        how = [f"{what}: {command}" for what, command in self.commands.items()]
        maps = self.run / ANSWER / f"{self.method}-maps.png"
        return [
            self.verdict,
            f"{self.method}, K = {self.num_clusters}; model: {self.model}",
            f"Masks of {self.images} images: {self.masks}",
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
    methods: tuple[str, ...] = METHODS,
    backbone: str | None = None,
    num_samples: int = COUNTS,
    seeds: int = SEEDS,
    assigned: dict[str, Any] | None = None,
    tracking_uri: str | None = None,
) -> Fitted:
    """Segments photographs without labels.

    Args:
        source: Folder, URI, Parquet file or WebDataset archive of images, or a prepared set;
            `None` for those of the run that is resumed.
        out: The new run's folder.
        resume: A run to go on with: one that was broken off is ended, then images without a mask
            get one from its model, also those that were added since.
        methods: Which are compared.
        backbone: As `--backbone`; the default where its weights can be had, else textons.
        num_samples: Values of K that are tried.
        seeds: With which each is tried.
        assigned: Dotted keys and values, above all else.
        tracking_uri: As `--tracking-uri`.

    Returns:
        Where everything is.

    Raises:
        UserError: Something is wrong with the images, the options or the place; says what to do.
    """
    if source is None and resume is None:
        raise UserError(f"which images? {CONSOLE} fit FOLDER, or {CONSOLE} fit --resume RUN")
    before = reopened(resume) if resume is not None else None
    root, manifest = _images(before[1].data if source is None and before else str(source))
    if before is None:
        network, said = choose_backbone(backbone, assigned or {})
        _say(said)
        check_room(root, manifest, Path(out or "."))
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
        run = before[0]
        check_room(root, manifest, run)
        if not (run / KEPT).is_dir():
            launch(None, None, resume, dry_run=False, again=f"{CONSOLE} fit")
    found = _fitted(run, _masks(root, manifest, run))
    for line in found.lines():
        _say(line)
    return found


def schedule(manifest: Manifest) -> dict[str, Any]:
    """Lists settings of short trials, by the number of images."""
    images = sum(split.rows for split in manifest.splits.values())
    few, many = STEPS
    return {
        "data.train_size": FRAME,
        "data.eval_size": FRAME,
        "train.epochs": 1,
        "train.steps_per_epoch": min(max(images // 2, few), many),
        "train.batch_size": 16,
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


def _images(source: str) -> tuple[str, Manifest]:
    """Finds or makes the prepared set, and says what it found."""
    return open_data(DataConfig(name=ready(source)))


def ready(data: str) -> str:
    """Makes a prepared set of images that are none yet; shows progress and says what there is.

    Args:
        data: What `--data` names: a prepared set, or images as `prepare_own` takes them.

    Returns:
        The set as `--data` takes it.
    """
    if not is_raw(data):
        return data
    with _bar("Reading images") as (progress, task):
        own = prepare_own(
            data,
            on_progress=lambda done, _bad, total: progress.update(
                task, completed=done, total=total
            ),
        )
    _say(own.found)
    for note in own.notes:
        _say(note)
    return own.prepared.out


def _masks(root: str, manifest: Manifest, run: Path) -> Masks:
    with _bar("Writing masks") as (progress, task):
        return write_masks(
            root,
            manifest,
            run / KEPT,
            run / MASKS,
            lambda done, total: progress.update(task, completed=done, total=total),
        )


def _fitted(run: Path, masks: Masks) -> Fitted:
    about, _ = read_model(run / KEPT)
    said = run / ANSWER / f"{about.method}.json"
    verdict = json.loads(said.read_bytes())["verdict"] if said.is_file() else ""
    network = about.backbone.name
    change = f"--backbone {PRESETS[1].name}" if network == TEXTONS else f"--backbone {TEXTONS}"
    return Fitted(
        run,
        run / KEPT,
        masks.folder,
        masks.written + masks.kept,
        about.method,
        about.num_clusters,
        verdict,
        f"Backbone: {network}; {change} takes another.",
    )


@contextmanager
def _bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress, progress.add_task(what, total=None)


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
