"""What a set of images is before it is prepared: names of files, and what their labels mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from usseg_ray.data.manifest import Palette
from usseg_ray.prepare.drawing import Drawing
from usseg_ray.prepare.meaning import Colour, Meaning


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
class Window:
    """A part of a picture that is too large to be decoded, read from the file as it is.

    Attributes:
        top: Its first row, pixels.
        left: Its first column, pixels.
        height: Pixels.
        width: Pixels.
        whole: Height and width of the picture.
    """

    top: int
    left: int
    height: int
    width: int
    whole: tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """One image, and its label if it has one.

    Attributes:
        id: The image's path below its folder without the suffix; unique in its split.
        split: Name of the part of the set.
        image: Absolute path.
        label: Absolute path, or `None`; with a drawing, of the file that describes it.
        cut: The part of both files that is meant; `None` for the whole.
        drawing: The label, where no file holds it as a picture.
    """

    id: str
    split: str
    image: str
    label: str | None
    cut: Cut | Window | None = None
    drawing: Drawing | None = None


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
        colours: Colour in painted labels -> class index or `ignore_index`.
        notes: Lines for the user, such as what was passed over.
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
    colours: Mapping[Colour, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def meaning(self) -> Meaning:
        """What its labels' values mean."""
        return Meaning(len(self.classes) or None, self.ignore_index, self.class_of, self.colours)

    @property
    def splits(self) -> dict[str, tuple[Entry, ...]]:
        """Entries of each split, in order."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.split, []).append(entry)
        return {name: tuple(entries) for name, entries in found.items()}
