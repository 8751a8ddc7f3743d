"""Labels that a COCO JSON describes: instances or stuff, one file a split.

Its categories become classes in the order of their ids. Pixels of no annotation are void; around a
category that is alone they are the class `background`, since one class is nothing to tell apart.
Images without annotations are unlabelled. Nothing is drawn here, see `drawing`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri
from usseg_ray.core.foreign import is_shown
from usseg_ray.core.sources import listed, load_json
from usseg_ray.prepare.description import in_words
from usseg_ray.prepare.drawing import Drawing, Shape
from usseg_ray.prepare.entries import Entry
from usseg_ray.prepare.packed import KEPT, divided, fetch_json
from usseg_ray.prepare.pairing import DEFAULT_SPLIT
from usseg_ray.prepare.patterns import is_split, roots

MAX_BYTES = 2**30

_NAMES = re.compile(
    r"(?:(?P<folder>[^/]+)/)?_annotations\.coco\.json|"
    r"(?:annotations/)?(?:instances|stuff)_(?P<part>\w+)\.json|"
    r"annotations/(?P<alone>\w+)\.json|annotations\.json"
)

_Side = Annotated[int, Field(ge=1)]

BACKGROUND = "background"


class _Image(BaseModel):
    id: int
    file_name: str = Field(min_length=1)
    height: _Side
    width: _Side

    @field_validator("file_name")
    @classmethod
    def _names_a_file(cls, name: str) -> str:
        if not _parts(name) or not is_shown(name):
            raise ValueError(f"{name[:80]!r} is no name of a file")
        return name


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    segmentation: Any = None


class _Category(BaseModel):
    id: int
    name: str = Field(min_length=1)


class _CocoFile(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = Field(min_length=1)


def find(source: Path) -> dict[str, Path]:
    """Finds the files that are called as COCO's, Roboflow's or CVAT's are: split -> file.

    Raises:
        UserError: Two are of one split.
    """
    for root in roots(source):
        found: dict[str, Path] = {}
        for path in (*listed(root, "*.json"), *listed(root, "*/*.json")):
            split = _split_of(path.relative_to(root).as_posix())
            if split is None:
                continue
            if split in found:
                raise UserError(
                    f"{path}: {found[split].name} describes split {split!r} too. Say which counts: "
                    "--labels 'annotations/instances_{split}.json'."
                )
            found[split] = path
        if found:
            return found
    return {}


def _split_of(name: str) -> str | None:
    fits = _NAMES.fullmatch(name)
    if fits is None:
        return None
    word = fits[fits.lastgroup] if fits.lastgroup else DEFAULT_SPLIT
    if is_split(word):
        return word.lower()
    return DEFAULT_SPLIT if word in (DEFAULT_SPLIT, "annotations", "default") else None


def is_said(labels: str) -> bool:
    """Tells `--labels FILE.json`, which may be a URI, from folders and patterns of label maps."""
    return (labels.partition("?")[0] if is_uri(labels) else labels).endswith(".json")


def said(source: Path, text: str) -> dict[str, Path]:
    """Reads `--labels FILE.json`, perhaps a URI or with `{split}` in it: split -> file.

    Raises:
        UserError: No file fits.
    """
    asked, where = text, source
    if is_uri(text):
        where, text = _fetched(text)
    before, split, behind = str(where / text).partition("{split}")
    if not split:
        found = {DEFAULT_SPLIT: where / text} if (where / text).is_file() else {}
    else:
        fits = re.compile(re.escape(before) + r"([^/]+)" + re.escape(behind))
        files = listed(Path(f"{before}X").parent, "**/*.json")
        found = {match[1]: path for path in files if (match := fits.fullmatch(str(path)))}
    if not found:
        place = "" if is_uri(asked) else f" below {source}"
        raise UserError(f"--labels {asked}: there is no such file{place}.")
    return found


def _fetched(uri: str) -> tuple[Path, str]:
    place, rest = divided(uri, folder=False)
    name = r"[^/]+".join(map(re.escape, rest.split("{split}")))
    return fetch_json(place, re.compile(name), KEPT), rest


@dataclass(frozen=True)
class Annotations:
    """Images with what their annotations say.

    Attributes:
        entries: Sorted by split, then id.
        classes: Names, by index.
        void: Class index of pixels without a class.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    void: int


def add_labels(entries: Iterable[Entry], files: Mapping[str, Path]) -> Annotations:
    """Gives images the labels that COCO files describe.

    Where the layout names no splits, an image belongs to the split of its file. An image that a
    file names and that is not there is kept as an entry, so that it is quarantined.

    Args:
        entries: The images.
        files: Split -> file.

    Raises:
        UserError: A file is no such JSON, its numbers name nothing, or two differ in categories.
    """
    images = _Images(entries)
    classes: dict[int, str] = {}
    void = rest = 255
    for split, path in files.items():
        content = _read(path)
        named = _classes(path, content.categories)
        if classes and named != classes:
            raise UserError(f"{path}: its categories are not those of the other splits' files.")
        classes = named
        void = 255 if len(classes) <= 255 else 65535
        rest = 1 if len(classes) == 1 else void
        for image, shapes in _shapes(path, content, classes):
            drawing = Drawing(image.height, image.width, rest, shapes) if shapes else None
            images.give(image.file_name, split, path, drawing)
    names = (*classes.values(), *((BACKGROUND,) if rest != void else ()))
    return Annotations(images.ordered(), names, void)


class _Images:
    """Images by name, and whether their folders tell splits."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {(entry.split, entry.id): entry for entry in entries}
        self._has_splits = {split for split, _ in self._entries} != {DEFAULT_SPLIT}
        self._named = defaultdict[str, list[Entry]](list)
        for entry in self._entries.values():
            self._named[PurePosixPath(entry.image).name].append(entry)
        self._given: set[str] = set()

    def give(self, name: str, split: str, path: Path, drawing: Drawing | None) -> None:
        """Gives the image of a file name its label."""
        entry = self._find(name, split, path)
        if entry.image in self._given:
            raise UserError(f"{path}: the image {name!r} is named twice.")
        self._given.add(entry.image)
        self._entries.pop((entry.split, entry.id), None)
        entry = replace(
            entry,
            split=entry.split if self._has_splits else split,
            label=None if drawing is None else str(path),
            drawing=drawing,
        )
        self._entries[entry.split, entry.id] = entry

    def _find(self, name: str, split: str, path: Path) -> Entry:
        tail = _parts(name)
        fits = [
            entry
            for entry in self._named[tail[-1]]
            if Path(entry.image).parts[-len(tail) :] == tail
        ]
        fits = [entry for entry in fits if entry.split == split] or fits
        fits = [entry for entry in fits if Path(entry.image).parent == path.parent] or fits
        if len(fits) > 1:
            raise UserError(f"{path}: {len(fits)} images are called {name!r}: {fits[0].image}, ...")
        if fits:
            return fits[0]
        lost = path.parent.joinpath(*tail)
        return Entry(str(PurePosixPath(*tail).with_suffix("")), split, str(lost), None)

    def ordered(self) -> tuple[Entry, ...]:
        """Returns the images with what they were given."""
        return tuple(sorted(self._entries.values(), key=lambda entry: (entry.split, entry.id)))


def _parts(name: str) -> tuple[str, ...]:
    """Takes a file name of COCO's apart; what leads out of a folder does not count."""
    parts = PurePosixPath("/", name.replace("\\", "/")).parts[1:]
    return tuple(part for part in parts if part != "..")


def _read(path: Path) -> _CocoFile:
    try:
        return _CocoFile.model_validate(load_json(path, MAX_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        reason = "is missing" if first["type"] == "missing" else in_words(first)
        raise UserError(
            f"{path}: no COCO annotations: {place}: {reason}. If it is something else, rename "
            "it or move it away; or say what counts: --labels FILE.json."
        ) from None


def _classes(path: Path, categories: list[_Category]) -> dict[int, str]:
    """Names classes by category id, in the order of the ids; a second of a name has its id."""
    classes: dict[int, str] = {}
    for category in sorted(categories, key=lambda category: category.id):
        if category.id in classes:
            raise UserError(f"{path}: two categories have the id {category.id}.")
        twice = category.name in classes.values()
        classes[category.id] = f"{category.name}_{category.id}" if twice else category.name
    return classes


def _shapes(
    path: Path, content: _CocoFile, classes: Mapping[int, str]
) -> list[tuple[_Image, tuple[Shape, ...]]]:
    images = {image.id: image for image in content.images}
    index_of = {number: index for index, number in enumerate(classes)}
    shapes = defaultdict[int, list[Shape]](list)
    for place, found in enumerate(content.annotations):
        if found.image_id not in images:
            raise UserError(f"{path}: annotation {place}: there is no image {found.image_id}.")
        if found.category_id not in index_of:
            raise UserError(f"{path}: annotation {place}: no category {found.category_id}.")
        shapes[found.image_id].append(Shape(index_of[found.category_id], found.segmentation))
    return [(image, tuple(shapes[image.id])) for image in images.values()]
