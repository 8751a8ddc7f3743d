"""All images of a place through a model, by the workers of a cluster.

What was written whole by the same model, names and options is not done again; a folder that others
made is left alone. Broken images cost themselves.
"""

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from usseg_ray.cluster.join import local_ray
from usseg_ray.cluster.worker_pool import pooled
from usseg_ray.core.cli import OnProgress
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri
from usseg_ray.core.lock import LOCK_FILE, alone_in
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import picture_size
from usseg_ray.models.description import read_description
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import Record
from usseg_ray.outputs.formats import FORMATS
from usseg_ray.outputs.manifest import Folder, Header
from usseg_ray.outputs.places import ImageFile, ImageFiles, find_images
from usseg_ray.outputs.tiles import Tiling
from usseg_ray.outputs.work import ImageOutcome, Order, Worker
from usseg_ray.scoring.anyup_file import anyup_digest, named_anyup
from usseg_ray.scoring.protocols import PLAIN, Refinement

QUARANTINE = "quarantine.jsonl"

_LOOKED_AT = 64
"""Images whose headers say how large all are."""

_USUAL_PIXELS = 12e6
"""Of an image whose header says nothing."""


@dataclass
class PredictionRun:
    """What a run did.

    Attributes:
        out: Folder or URI of the outputs.
        written: Images that it wrote.
        kept: Images that were there.
        bad: Images that could not be used, and why.
        seconds: From the first image on, without what came before.
        notes: What was passed over, a line each.
        files: Files of all images.
    """

    out: str
    written: int = 0
    kept: int = 0
    bad: list[ImageOutcome] = field(default_factory=list)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def predict(
    model: Path,
    images: str,
    out: str,
    *,
    formats: Sequence[str] = ("png",),
    tiling: Tiling | None = None,
    refine: str | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    on_progress: OnProgress = lambda *_: None,
) -> PredictionRun:
    """Segments all images of a place.

    Args:
        model: Folder of the model; every node must see it.
        images: A file, folder or URI.
        out: Folder or URI; names in it mirror those of the images.
        formats: Of `formats.FORMATS`.
        tiling: Cut images into tiles; else they are seen whole.
        refine: Refiners such as `guided` or `flip+guided`; none if unset.
        overwrite: Replace what another model, other names, options or images made.
        device: `cpu` or `cuda`.
        on_progress: Told how far it is.

    Raises:
        UserError: There are no images, or none that can be used; the model is damaged; the outputs
            cannot be written, or are another's; a refiner is unknown; segments of tiles.
    """
    out = out if is_uri(out) else str(Path(out).expanduser().absolute())
    refinement = Refinement.parse(refine) if refine else PLAIN
    if tiling is not None and "segments" in formats:
        raise UserError("--save segments sees images whole: leave --tile or segments out.")
    found = find_images(images, out)
    description = read_description(model)
    order = Order(
        str(model.absolute()),
        found.place,
        out,
        tuple(formats),
        tiling,
        importlib.util.find_spec("rasterio") is not None,
        refinement,
        named_anyup(),
    )
    header = Header.of(description, _options(tiling, refinement), found.folder)
    folder = Folder(out)
    check_owner(folder, header, found.place, overwrite=overwrite)
    with alone_in(out, "this folder of outputs"), _swept(folder):
        if overwrite and (there := header_of(folder)) is not None and there.differs(header):
            folder.clear()
        folder.begin(header, description.names.text())
        result = PredictionRun(out, notes=found.notes)
        left = _left(folder, found, formats)
        result.kept = len(found.found) - len(left)
        check_room(out, left, found, formats)
        if left:
            _run(order, left, result, device, on_progress)
        result.files = gather_all(folder, formats, description.names)
    if not result.written and not result.kept:
        raise UserError(
            f"--images {images}: none of {len(result.bad)} images can be used; the first, "
            f"{result.bad[0].name}: {result.bad[0].reason}."
        )
    return result


def check_owner(folder: Folder, header: Header, images: str, *, overwrite: bool) -> None:
    """Refuses a folder that something else made.

    Raises:
        UserError: It is the images' own, or another model, other names, options or images made
            it, or nobody knows who.
    """
    if not is_uri(images) and Path(images).expanduser().absolute() == Path(folder.place):
        raise UserError(f"--out {folder.place}: the folder of the images. Name another.")
    if overwrite:
        return
    there = folder.header()
    other = there.differs(header) if there else ""
    if there is None and folder.sizes().keys() - {LOCK_FILE}:
        other = "something else"
    if other:
        raise UserError(
            f"--out {folder.place}: written by {other}. Name another folder, or --overwrite."
        )


def check_room(
    out: str, left: Sequence[ImageFile], images: ImageFiles, formats: Sequence[str]
) -> None:
    """Makes sure that the outputs fit on the disk, by the headers of some images.

    Raises:
        UserError: They most likely do not.
    """
    if is_uri(out) or not left:
        return
    pixels = _mean_pixels(left, images) * len(left)
    needed = int(pixels * sum(FORMATS[name].bytes_per_pixel for name in formats))
    there = next(place for place in (Path(out), *Path(out).absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"--out {out}: {len(left)} images as {', '.join(formats)} take about "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Save fewer formats, or name "
            "a folder on another disk."
        )


def _mean_pixels(left: Sequence[ImageFile], images: ImageFiles) -> float:
    if is_uri(images.place):
        return _USUAL_PIXELS
    sizes = []
    for found in left[:: max(1, len(left) // _LOOKED_AT)]:
        try:
            height, width = picture_size(Path(found.path))
        except (UndecodableError, OSError):
            continue
        sizes.append(height * width)
    return sum(sizes) / len(sizes) if sizes else _USUAL_PIXELS


def gather_all(folder: Folder, formats: Sequence[str], names: Names) -> tuple[str, ...]:
    """Makes the files of all images, of what was written for each.

    Args:
        folder: The outputs.
        formats: Those that were asked for.
        names: What outputs are called.

    Returns:
        The files' names.
    """
    records = sorted(folder.done().values(), key=lambda record: record.name)
    folder.join(records)
    made = [
        (file, partial(make, _having(records, name), names, partial(_part, folder, name)))
        for name in formats
        for file, make in FORMATS[name].gathered.items()
    ]
    for file, content in made:
        folder.write(file, content)
    return tuple(file for file, _ in made)


def _having(records: Sequence[Record], name: str) -> list[Record]:
    """Lists the images that a format was written for; one without files is of all."""
    return [record for record in records if FORMATS[name].sink is None or name in record.files]


def _part(folder: Folder, name: str, record: Record) -> bytes:
    return folder.read(record.files[name])


def _left(folder: Folder, images: ImageFiles, formats: Sequence[str]) -> list[ImageFile]:
    """Lists the images of which something is missing."""
    done, there = folder.done(), folder.sizes()
    wanted = {name for name in formats if FORMATS[name].sink is not None}

    def is_whole(found: ImageFile) -> bool:
        record = done.get(found.name)
        if record is None or (record.key, record.stamp) != (found.key, found.stamp):
            return False
        return wanted <= {name for name, path in record.files.items() if there.get(path)}

    return [found for found in images.found if not is_whole(found)]


def _run(
    order: Order, left: list[ImageFile], result: PredictionRun, device: str, on_progress: OnProgress
) -> None:
    all_images = result.kept + len(left)
    on_progress(result.kept, 0, all_images)
    begun = time.perf_counter()
    try:
        with local_ray(), closing(pooled(Worker, (order,), left, device)) as outcomes:
            for outcome in outcomes:
                if outcome.reason:
                    result.bad.append(outcome)
                else:
                    result.written += 1
                done = result.kept + result.written + len(result.bad)
                on_progress(done, len(result.bad), all_images)
    finally:
        result.seconds = time.perf_counter() - begun
        lines = [json.dumps(outcome.model_dump(), ensure_ascii=False) for outcome in result.bad]
        Folder(order.out).write(QUARANTINE, "".join(f"{line}\n" for line in sorted(lines)))


@contextmanager
def _swept(folder: Folder) -> Iterator[None]:
    """Leaves whole files only, also where workers are killed."""
    try:
        yield
    finally:
        folder.sweep()


def header_of(folder: Folder) -> Header | None:
    """Reads what made outputs; `None` where nothing did, or a file that is damaged says what."""
    try:
        return folder.header()
    except UserError:
        return None


def _options(tiling: Tiling | None, refinement: Refinement) -> dict[str, int | float | str | None]:
    options: dict[str, int | float | str | None] = {}
    if tiling is not None:
        options |= {"tile": tiling.side, "overlap": tiling.overlap}
    if refinement != PLAIN:
        options["refine"] = str(refinement)
    if "anyup" in refinement:
        options["refine"] = f"{refinement} by weights {anyup_digest()[:12]}"
    return options
