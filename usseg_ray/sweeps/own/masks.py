"""Masks of all images of a prepared set, by the model that a run kept.

Written one by one; a mask that was written by the same model for the same bytes is not written
again, so that a broken-off call goes on, and images that came later are all that is left.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.data.decode import decode_image
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.shards import read_rows
from usseg_ray.models.description import MODEL_FILE
from usseg_ray.models.folder import WEIGHTS_FILE
from usseg_ray.models.segmenter import Segmenter

MASKS = "masks"

WRITTEN_FILE = "written.json"
"""In the folder of masks: which model wrote which, of which bytes."""

BYTES_PER_PIXEL = 0.25
"""Of an indexed PNG, generously: a guess, which is to refuse too early rather than too late."""

_SAVED_EVERY = 50


@dataclass(frozen=True)
class Written:
    """What `WRITTEN_FILE` holds.

    Attributes:
        model: Hash of the model.
        images: Mask's name -> hash of its image's bytes.
    """

    model: str
    images: dict[str, str]


@dataclass(frozen=True)
class Masks:
    """Masks that were written.

    Attributes:
        folder: Where they lie, named after their images.
        written: How many were written now.
        kept: How many were there already.
    """

    folder: Path
    written: int
    kept: int


def check_room(root: str, manifest: Manifest, folder: Path) -> None:
    """Refuses a disk that would be full before all masks are written.

    Args:
        root: URI of the set.
        manifest: Of the set.
        folder: Where masks will lie, or a folder above.

    Raises:
        UserError: There is too little room; says how much is needed.
    """
    filesystem, place = resolve(root)
    pixels = 0
    for shard in manifest.shards:
        with filesystem.open_input_file(f"{place}/{shard.path}") as stream:
            sizes = pq.read_table(stream, columns=["height", "width"]).to_pydict()
        pixels += sum(h * w for h, w in zip(sizes["height"], sizes["width"], strict=True))
    needed, above = int(pixels * BYTES_PER_PIXEL), folder.absolute()
    while not above.exists():
        above = above.parent
    free = shutil.disk_usage(above).free
    if free < needed:
        raise UserError(
            f"{folder}: masks of all images may take {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free. Make room, or name another disk: --out FOLDER."
        )


def write_masks(
    root: str,
    manifest: Manifest,
    model: Path,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Masks:
    """Writes the mask of every image of a set that has none yet.

    Args:
        root: URI of the set.
        manifest: Of the set.
        model: Folder of the model.
        folder: Where masks go: ID.png, below the split's name where there are several.
        on_progress: Told the images that are done, and all.

    Returns:
        How many there are.
    """
    segmenter, own = Segmenter.open(model), _model_key(model)
    before = _written(folder, own)
    done = dict[str, str]()
    total, fresh = sum(split.rows for split in manifest.splits.values()), 0
    try:
        for name, data in _images(root, manifest):
            path, key = folder / f"{name}.png", hashlib.sha256(data).hexdigest()
            if before.get(name) != key or not path.is_file():
                segmenter.segment(decode_image(data)).save(path)
                fresh += 1
            done[name] = key
            on_progress(len(done), total)
            if len(done) % _SAVED_EVERY == 0:
                _save(folder, own, before | done)
    finally:
        _save(folder, own, before | done)
    return Masks(folder, fresh, len(done) - fresh)


def _images(root: str, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    filesystem, place = resolve(root)
    several = len(manifest.splits) > 1
    for shard in manifest.shards:
        for group in range(len(shard.row_groups)):
            table = read_rows(filesystem, f"{place}/{shard.path}", group, ["id", "image"])
            for row in table.to_pylist():
                yield f"{shard.split}/{row['id']}" if several else row["id"], row["image"]


def _model_key(model: Path) -> str:
    """Changes with a model's weights and with its names."""
    found = hashlib.sha256((model / MODEL_FILE).read_bytes())
    found.update((model / WEIGHTS_FILE).read_bytes())
    return found.hexdigest()


def _written(folder: Path, model: str) -> dict[str, str]:
    """Reads which masks the same model wrote; of another one's, or damaged notes, none count."""
    try:
        kept = read_json(folder / WRITTEN_FILE, Written, "")
    except (DamagedError, FileNotFoundError):
        return {}
    return kept.images if kept.model == model else {}


def _save(folder: Path, model: str, images: dict[str, str]) -> None:
    write_json(folder / WRITTEN_FILE, asdict(Written(model, images)))
