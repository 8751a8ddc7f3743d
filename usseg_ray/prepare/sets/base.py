"""What a published data set is: where its files lie, what label values mean, which images count.

Stands where `layouts.discover` stands for a folder of one's own: both end in an `ImageSet`. An
official validation split is scored here as `test`, once, by the winner of a sweep. What ranks
trials, `val`, is held out of the official training split, so that nothing is ever chosen on the
images that are scored.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import Palette
from usseg_ray.prepare.entries import Entry, ImageSet
from usseg_ray.prepare.passed import PassedFiles
from usseg_ray.prepare.sets.download import Archive, Progress, obtain

IGNORE_INDEX = 255
HELD_OUT_SHARE, HELD_OUT_MOST = 0.05, 500

Splits = dict[str, list[Entry]]
FileOf = Callable[[str], Path]


@dataclass(frozen=True)
class PublishedSet:
    """A published data set.

    Attributes:
        name: What `--dataset` calls it.
        classes: Names, by index.
        things: Those of them that are countable objects; the others are stuff.
        class_of: Label value in the files -> class index or `IGNORE_INDEX`. Other values are bad.
        layout: The files that are expected below the source, for people.
        home: Where the files come from, and under whose terms.
        origins: Split -> the official images that it has.
        expected: Split -> how many images it has officially, where that is known.
        find: Lists the files of every split below a folder.
        palette: RGB of each class, or `None`.
        archives: What `download` fetches; none where the makers want to be asked first.
        how_to_get: For those: where to ask, and what then goes where.
        variant: Looks at a folder and returns what the set is there, if it comes in a second
            layout and the folder has that one.
    """

    name: str
    classes: tuple[str, ...]
    things: tuple[str, ...]
    class_of: Mapping[int, int]
    layout: str
    home: str
    origins: Mapping[str, str]
    find: Callable[[Path], Splits]
    expected: Mapping[str, int] = field(default_factory=dict)
    palette: Palette | None = None
    archives: tuple[Archive, ...] = ()
    how_to_get: str = ""
    variant: "Callable[[Path], PublishedSet | None]" = lambda _: None

    def download(self, folder: str | Path, on_progress: Progress = lambda *_: None) -> None:
        """Fetches the set into a folder, in the layout in which `discover` finds it.

        Args:
            folder: Made if it is not there; what it has of the set already is not fetched again.
            on_progress: As for `download.obtain`.

        Raises:
            UserError: The makers want to be asked first, or as for `download.obtain`.
        """
        if not self.archives:
            raise UserError(f"--download: {self.name} is not handed out freely. {self.how_to_get}")
        obtain(self.archives, folder, on_progress)

    def discover(self, source: str | Path) -> ImageSet:
        """Finds the images and labels of the official layout.

        Args:
            source: The folder that holds it.

        Returns:
            The set; its files are named, not opened.

        Raises:
            UserError: A folder or list is missing or empty, or a list is no text; says which, what
                was expected, and where to get it.
        """
        root = Path(source).expanduser().resolve()
        variant = self.variant(root)
        if variant is not None:
            return variant.discover(source)
        try:
            splits = self.find(root)
        except FileNotFoundError as error:
            raise UserError(
                f"--source {source}: {self.name} needs {error.filename}, which is not there.\n"
                f"Expected: {self.layout}. Get it from {self.home}."
            ) from None
        for split, entries in splits.items():
            if not entries:
                raise UserError(
                    f"--source {source}: {self.name} has no image for its split {split!r} "
                    f"({self.origins[split]}).\nExpected: {self.layout}."
                )
        return ImageSet(
            name=self.name,
            classes=self.classes,
            ignore_index=IGNORE_INDEX,
            palette=self.palette,
            entries=tuple(entry for split in splits.values() for entry in split),
            things=self.things,
            class_of=dict(self.class_of),
            origins=dict(self.origins),
            expected=dict(self.expected),
            notes=hidden_below(root),
        )


def hidden_below(root: Path) -> tuple[str, ...]:
    """Says how many hidden files, which no adapter reads, lie below a folder."""
    passed = PassedFiles()
    passed.walk(root)
    return tuple(passed.lines())


def entries_of(split: str, ids: Iterable[str], image: FileOf, label: FileOf) -> list[Entry]:
    """Names the files of some images; whether each can be read is for `inspection` to say."""
    return [Entry(key, split, str(image(key)), str(label(key))) for key in sorted(ids)]


def named(place: Path, ending: str) -> FileOf:
    """Says that an image's file in a folder is called by its id and an ending."""
    return lambda key: place / f"{key}{ending}"


def folder(path: Path) -> Path:
    """Returns a folder that is there; a `FileNotFoundError` names one that is not."""
    if not path.is_dir():
        raise FileNotFoundError(2, "no such folder", str(path))
    return path


def origins_with_held_out(train: str, test: str) -> dict[str, str]:
    """Says which official images the splits have where `held_out` makes `train` and `val`."""
    return {
        "train": f"{train} without what is held out",
        "val": f"held out of {train}",
        "test": test,
    }


def held_out(ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Parts official training images into those that train and those that rank trials.

    Which are held out follows from their names alone: those of the smallest SHA-256, 5 % of all
    and at most 500.

    Args:
        ids: Names of all training images.

    Returns:
        Names that train, and names that rank trials; both sorted.
    """
    names = list(ids)
    count = min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(names)) or len(names) // 2)
    return parted(names, count)


def parted(ids: Iterable[str], count: int) -> tuple[list[str], list[str]]:
    """Takes the `count` names of the smallest SHA-256 from all.

    Returns:
        The names that are left, and those that were taken; both sorted.
    """
    ordered = sorted(ids, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    return sorted(ordered[count:]), sorted(ordered[:count])
