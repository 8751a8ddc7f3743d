"""Photographs of one's own, wherever they lie, become a prepared set without a word.

`fit` and `tune --data` ask here. A set is kept under a key of what its source holds, so a second
call finds it, and images that were added later make another one.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from usseg_ray.core.cli import OnProgress
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri
from usseg_ray.core.sources import walk
from usseg_ray.data.decode import IMAGE_SUFFIXES
from usseg_ray.data.library import SYNTHETIC, cache_root, is_prepared
from usseg_ray.data.manifest import load_manifest
from usseg_ray.prepare.entries import ImageSet
from usseg_ray.prepare.layouts import discover
from usseg_ray.prepare.lists import split_lists
from usseg_ray.prepare.packed import KEPT, PARQUET, TAR, is_packed, unpack_images
from usseg_ray.prepare.pairing import DEFAULT_SPLIT
from usseg_ray.prepare.patterns import roots
from usseg_ray.prepare.windows import cut_large
from usseg_ray.prepare.write import Preparation, fingerprint, write_set

FEWEST = 2

MAX_BAD_SHARE = 0.5
"""A folder that was never looked at may hold more broken files than a set that was put together."""


@dataclass(frozen=True)
class OwnSet:
    """A set that was found or made.

    Attributes:
        prepared: The set.
        found: What the source holds, in a line.
        notes: What was passed over, a line each.
    """

    prepared: Preparation
    found: str
    notes: tuple[str, ...]


def is_raw(data: str) -> bool:
    """Tells what is to be prepared yet from a prepared set, by its folder, URI or name.

    Raises:
        UserError: There are images here, and a set of that name that was not made of them.
    """
    if data == SYNTHETIC:
        return False
    if is_uri(data):
        return not is_prepared(data)
    path, named = Path(data).expanduser(), cache_root() / data
    if not path.exists() or is_prepared(path):
        return False
    if not is_prepared(named):
        return True
    source = load_manifest(str(named)).source
    if source != str(path.resolve()) and _holds_images(path):
        raise UserError(
            f"--data {data}: which one? {named} is a prepared set, made of {source}; "
            f"{path.resolve()} holds other images. Give one of these paths."
        )
    return False


def _holds_images(path: Path) -> bool:
    known = {PARQUET, TAR, *IMAGE_SUFFIXES}
    return any(file.suffix.lower() in known for file in (walk(path) if path.is_dir() else [path]))


def image_folder(source: str, home: Path = KEPT) -> Path:
    """Says where images lie as files; those of an archive or a bucket are laid out first.

    Args:
        source: As `prepare_own`.
        home: Where they are laid out.

    Raises:
        UserError: There is no such place, or it cannot be read.
    """
    if not is_uri(source) and not Path(source).expanduser().exists():
        raise UserError(f"{source}: no such folder or file. Give the folder of your images.")
    return unpack_images(source, home) if is_packed(source) else Path(source).expanduser()


def prepare_own(
    source: str,
    home: Path = KEPT,
    on_progress: OnProgress | None = None,
    bands: tuple[str, ...] = (),
) -> OwnSet:
    """Makes a prepared set of photographs, or finds the one that was made of them.

    Args:
        source: A folder, URI, Parquet file or WebDataset archive of images.
        home: Where sets are kept.
        on_progress: As `write.prepare` has it.
        bands: As `write.prepare` has it.

    Returns:
        The set.

    Raises:
        UserError: It is one file, there are too few images, all are the same, or most cannot be
            read.
    """
    folder = image_folder(source, home)
    if folder.is_file():
        raise UserError(f"{source}: a file. Give the folder of your images, or an archive of them.")
    images, outside = _inside(_found_in(folder), folder.resolve())
    images = cut_large(images)
    _refuse_few(images, source)
    _refuse_identical(images, source)
    place = home.absolute() / f"{images.name}-{fingerprint(images, bands=bands)[:12]}"
    prepared = write_set(
        images,
        str(folder.resolve()),
        str(place),
        max_bad_share=MAX_BAD_SHARE,
        bands=bands,
        on_progress=on_progress,
    )
    splits = prepared.manifest.splits
    rows, bad = sum(s.rows for s in splits.values()), sum(s.bad_images for s in splits.values())
    if rows < FEWEST:
        raise UserError(f"{source}: {_few(rows)} See {place}/quarantine.jsonl for the others.")
    broken = [f"{bad} could not be read: {place}/quarantine.jsonl says why."] if bad else []
    return OwnSet(prepared, _found(prepared, source), (*prepared.notes, *outside, *broken))


def _found_in(folder: Path) -> ImageSet:
    """Finds all images that a model can learn from, whatever their folders are called by chance.

    A layout is believed where labels or lists show that it is meant. Else it must take all images,
    and name some for training.
    """
    found = discover(folder)
    if any(entry.label for entry in found.entries) or any(map(split_lists, roots(folder))):
        return found
    try:
        everything = discover(folder, images="{id}")
    except UserError:  # some may be labels
        return found
    whole = len(found.entries) == len(everything.entries) and DEFAULT_SPLIT in found.splits
    return found if whole else everything


def _found(prepared: Preparation, source: str) -> str:
    splits = prepared.manifest.splits
    images = sum(info.rows for info in splits.values())
    labelled = sum(info.labelled for info in splits.values())
    parts = f" in {', '.join(splits)}" if len(splits) > 1 else ""
    labels = f"{labelled} with labels, which are not used" if labelled else "without labels"
    return f"{source}: {images} images{parts}, {labels}."


def _inside(images: ImageSet, root: Path) -> tuple[ImageSet, list[str]]:
    """Leaves out what links lead to outside of a folder: it was not given."""
    kept = tuple(e for e in images.entries if Path(e.image).resolve().is_relative_to(root))
    left = len(images.entries) - len(kept)
    note = f"{left} links lead out of {root} and were not followed: copy what they name into it."
    return replace(images, entries=kept), [note] if left else []


def _refuse_few(images: ImageSet, source: str) -> None:
    if len(images.entries) < FEWEST:
        raise UserError(f"{source}: {_few(len(images.entries))}")


def _few(count: int) -> str:
    what = "one image" if count == 1 else "no image"
    return f"{what} that can be used: groups are what several images share. Give ten or more."


def _refuse_identical(images: ImageSet, source: str) -> None:
    """Refuses copies of one image; reads files only if all are equally large."""
    files = dict.fromkeys(Path(entry.image) for entry in images.entries)
    if len({_size(path) for path in files}) > 1 or len(files) < len(images.entries):
        return
    try:
        first, *others = (hashlib.sha256(path.read_bytes()).digest() for path in files)
    except OSError:  # told by name when the set is made
        return
    if all(other == first for other in others):
        raise UserError(
            f"{source}: all {len(images.entries)} images are the same file. Give several that "
            "differ."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
