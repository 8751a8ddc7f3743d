"""Where a user's images and labels lie: the first step of an image's path.

`discover` reads folder names and `dataset.json`, never a picture, so that it answers in a moment
for millions of files and every mistake in the layout is told before any work. What it finds goes
to `prepare`, which checks the pictures and writes them to `shards`.

Layouts, told apart by what is there:

- `{split}/images/**/X.*` with optional `{split}/labels/**/X.png`;
- `images/` with optional `labels/`: one split, `train`;
- any other folder: every image below it, without labels, is the split `train`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError, field_validator, model_validator

from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.data.decode import IMAGE_SUFFIXES
from usseg_ray.data.manifest import Palette

DEFAULT_IGNORE_INDEX = 255

DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class Cut:
    """A square of a picture that is too large to be one image, made smaller.

    Attributes:
        top: Its first row in the file, pixels.
        left: Its first column in the file, pixels.
        side: Its side in the file, pixels.
        shrink: How many pixels of the file become one, each way; divides the others.
    """

    top: int
    left: int
    side: int
    shrink: int


@dataclass(frozen=True)
class Entry:
    """One image, and its label if it has one.

    Attributes:
        id: The image's path below its folder without the suffix; unique in its split.
        split: Name of the part of the set.
        image: Absolute path.
        label: Absolute path, or `None`.
        cut: The part of both files that is meant; `None` for the whole.
    """

    id: str
    split: str
    image: str
    label: str | None
    cut: Cut | None = None


@dataclass(frozen=True)
class ImageSet:
    """A set of images as it lies on disk.

    Attributes:
        name: What the set is called.
        classes: Class names, by index; empty if `dataset.json` does not name them.
        ignore_index: Label value of the pixels that have no class.
        palette: RGB of each class, or `None`.
        entries: Sorted by split, then id.
        things: Classes that are countable objects, for scores of things and of stuff apart.
        class_of: Label value in the files -> class index or `ignore_index`; files hold class
            indices if it is `None`.
        origins: Split -> which images of a published set it has.
        expected: Split -> how many images it has there.
    """

    name: str
    classes: tuple[str, ...]
    ignore_index: int
    palette: Palette | None
    entries: tuple[Entry, ...]
    things: tuple[str, ...] = ()
    class_of: Mapping[int, int] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, tuple[Entry, ...]]:
        """Entries of each split, in order."""
        names = dict.fromkeys(entry.split for entry in self.entries)
        return {name: tuple(e for e in self.entries if e.split == name) for name in names}


class _Description(Settings):
    """What `dataset.json` may say; keys that are not listed here are the owner's own notes."""

    model_config = Settings.model_config | {"extra": "ignore"}

    name: str | None = Field(None, min_length=1)
    classes: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    ignore_index: int = Field(DEFAULT_IGNORE_INDEX, ge=1, le=65535)
    palette: tuple[tuple[int, int, int], ...] | None = None

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            raise ValueError(f"class {twice[0]!r} is named twice")
        return classes

    @field_validator("palette")
    @classmethod
    def _bytes(cls, palette: Palette | None) -> Palette | None:
        if palette and not all(0 <= value <= 255 for colour in palette for value in colour):
            raise ValueError("a colour is three numbers from 0 to 255")
        return palette

    @model_validator(mode="after")
    def _agree(self) -> "_Description":
        strange = [name for name in self.things if name not in self.classes]
        if strange:
            raise ValueError(f"'things' names {strange[0]!r}, which is no class")
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(
                f"'palette' has {len(self.palette)} colours for {len(self.classes)} classes"
            )
        if self.ignore_index < len(self.classes):
            both = self.classes[self.ignore_index]
            raise ValueError(f"'ignore_index' {self.ignore_index} is also class {both!r}")
        return self


def discover(source: str | Path) -> ImageSet:
    """Finds the images, labels and class names in a folder.

    Hidden files and files that are not images by their suffix are passed over. Classes that
    `dataset.json` does not name stay empty here; `prepare` then counts them in the labels. The
    ignore index is 255 where `dataset.json` states none.

    Args:
        source: The folder.

    Returns:
        The set, sorted, the same for the same folder.

    Raises:
        UserError: No such folder, no images in it or in one of its splits, a label without an
            image, two images with one id, or a `dataset.json` that cannot be used.
    """
    root = Path(source).expanduser().resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"--source {source}: {root} {what}. Give a folder that holds images.")
    about = _read_description(root / "dataset.json")
    splits = _find_splits(root)
    entries: list[Entry] = []
    for split, folder in splits.items():
        entries += _split_entries(split, folder / "images", folder / "labels")
    if not splits:
        entries += _split_entries(DEFAULT_SPLIT, root, None)
    return ImageSet(
        about.name or root.name,
        about.classes,
        about.ignore_index,
        about.palette,
        tuple(entries),
        about.things,
    )


def _find_splits(root: Path) -> dict[str, Path]:
    if (root / "images").is_dir():
        return {DEFAULT_SPLIT: root}
    parts = [part for part in sorted(root.iterdir()) if part.is_dir() and part.name[0] != "."]
    if not any((part / "images").is_dir() for part in parts):
        return {}
    for part in parts:
        if (part / "labels").is_dir() and not (part / "images").is_dir():
            raise UserError(
                f"{part}: the split has labels but no folder 'images'. Add it, or remove the split."
            )
    return {part.name: part for part in parts if (part / "images").is_dir()}


def _split_entries(split: str, images: Path, labels: Path | None) -> list[Entry]:
    pictures = _by_id(images)
    if not pictures:
        raise UserError(
            f"{images}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))}), "
            f"so split {split!r} would be empty."
        )
    truths = _by_id(labels) if labels is not None and labels.is_dir() else {}
    for key, path in truths.items():
        if path.suffix.lower() != ".png":
            raise UserError(f"{path}: a label must be a PNG file of class indices.")
        if key not in pictures:
            lost = len(truths.keys() - pictures.keys())
            raise UserError(
                f"{path}: no image {key}.* in {images} ({lost} labels without an image). "
                "Give an image and its label the same name."
            )
    return [
        Entry(key, split, str(path), str(truths[key]) if key in truths else None)
        for key, path in sorted(pictures.items())
    ]


def _by_id(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(_walk(folder)):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if not key.isprintable():
            raise UserError(f"{str(path)!r}: the name has characters that cannot be printed.")
        if key in found:
            raise UserError(
                f"{path}: {found[key].name} beside it has the same name, and names are ids. "
                "Rename or remove one."
            )
        found[key] = path
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yields every image below a folder, through links too, but never round a loop of them."""
    for place, below, names in os.walk(folder, followlinks=True):
        here = Path(place)
        inside = here.resolve()
        below[:] = [
            name
            for name in below
            if name[0] != "." and not inside.is_relative_to((here / name).resolve())
        ]
        for name in names:
            if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield here / name


def _read_description(path: Path) -> _Description:
    if not path.exists():
        return _Description()
    try:
        return _Description.model_validate(json.loads(path.read_text("utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error}).") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {f'key {key!r}: ' if key else ''}{reason}.") from None
