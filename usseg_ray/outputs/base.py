"""What a format is: something that takes an image's strips from the top down and becomes a file.

A photograph is one strip; an image of any size comes as many, so that a format that can be written
row by row never holds all of it.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from usseg_ray.core.config import Settings
from usseg_ray.models.names import Names

Mask = UInt8[np.ndarray, "h W"] | UInt16[np.ndarray, "h W"]
"""Outputs of pixels: of one byte where that holds all clusters."""


@dataclass(frozen=True)
class Georeference:
    """Where on the earth an image lies.

    Attributes:
        crs: The coordinate system, as WKT; empty where a file has a place and no system.
        transform: The six numbers that take (column, row) to (x, y), as of an affine map.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class About:
    """What is known of an image before its first strip.

    Attributes:
        name: Its path below the folder of the images.
        key: What its outputs are called, folders included; without a suffix.
        height: Pixels.
        width: Pixels.
        names: What outputs are called.
        georeference: Where it lies, if its file says so.
    """

    name: str
    key: str
    height: int
    width: int
    names: Names
    georeference: Georeference | None = None


@dataclass(frozen=True, eq=False)
class Strip:
    """Some rows of an image, whole ones.

    Attributes:
        mask: (h, W) outputs of pixels; `names.ignored` where there are none.
        confidence: (h, W) float32 in [0, 1], the probability of the cluster that was chosen.
        image: (h, W, 3) uint8, RGB.
        segments: (h, W) numbers of the image's own segments, where they were asked for; 0 in none.
    """

    mask: Mask
    confidence: Float32[np.ndarray, "h W"]
    image: UInt8[np.ndarray, "h W 3"]
    segments: UInt8[np.ndarray, "h W"] | None = None


class Sink(ABC):
    """Makes a file of an image's strips.

    Args:
        about: The image.
    """

    def __init__(self, about: About) -> None:
        self.about = about

    @abstractmethod
    def write(self, strip: Strip) -> None:
        """Takes the next rows."""

    @abstractmethod
    def finish(self) -> BinaryIO:
        """Returns the file, to be read from its start and closed."""

    @abstractmethod
    def close(self) -> None:
        """Gives up what a sink holds; after `finish`, or in its place."""


class WholeSink(Sink):
    """A format that needs the whole mask: it keeps it, a byte or two a pixel."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        self._masks: list[Mask] = []

    def write(self, strip: Strip) -> None:
        """Keeps the mask."""
        self._masks.append(strip.mask)

    def finish(self) -> BinaryIO:
        """Encodes the mask."""
        mask = self._masks[0] if len(self._masks) == 1 else np.concatenate(self._masks)
        self.close()
        return io.BytesIO(self.encode(mask))

    def close(self) -> None:
        """Forgets the mask."""
        self._masks.clear()

    @abstractmethod
    def encode(self, mask: Mask) -> bytes:
        """Makes the file of the whole mask."""


class Record(Settings):
    """An image that was written whole, as the manifest has it.

    Attributes:
        name: As `About.name`.
        key: As `About.key`.
        stamp: Of the image's file: bytes, and when it was written (ns).
        height: Pixels.
        width: Pixels.
        pixels: How many each output has.
        confidence: Mean over the pixels of each output.
        files: What was written for each format, below the folder of the outputs.
        crs: Of its georeference.
    """

    name: str
    key: str
    stamp: tuple[int, int]
    height: int
    width: int
    pixels: dict[int, int]
    confidence: dict[int, float]
    files: dict[str, str]


OpenPart = Callable[[Record], bytes]
"""Reads what a format wrote for an image."""

Gather = Callable[[Sequence[Record], Names, OpenPart, BinaryIO], None]
"""Makes one file of what was written for all images."""


@dataclass(frozen=True)
class Format:
    """One of `--save`.

    Attributes:
        sink: What makes the file of an image; `None` where records say it all.
        folder: Where files lie, below that of the outputs.
        suffix: Of an image.
        gathered: Files of all images, and what makes each.
        bytes_per_pixel: About what it takes on the disk, for the check before.
        most_pixels: Of an image; any number if unset.
        modules: What it needs that an extra brings.
        extra: That extra.
    """

    sink: type[Sink] | None
    folder: str = ""
    suffix: Callable[[About], str] = lambda _: ""
    gathered: Mapping[str, Gather] = field(default_factory=dict)
    bytes_per_pixel: float = 0.1
    most_pixels: int | None = None
    modules: tuple[str, ...] = ()
    extra: str = ""


PARTS = ".parts"
"""Folder of what is gathered into one file, kept for images that are added later."""


def titles(names: Names) -> dict[int, str]:
    """Calls every output something of its own: two clusters may have one name."""
    called = {output: names.clusters[output].name for output in names.outputs}
    taken = list(called.values())
    return {
        output: name if taken.count(name) == 1 else f"{name} ({output})"
        for output, name in called.items()
    }


def colours(names: Names) -> dict[int, tuple[int, int, int]]:
    """Colours every output as nothing else is, black included, which means none of them."""
    found: dict[int, tuple[int, int, int]] = {}
    for output in names.outputs:
        red, green, blue = (int(part) for part in names.palette[output])
        while (red, green, blue) in {(0, 0, 0), *found.values()}:
            blue, green = (blue + 1) % 256, (green + (blue == 255)) % 256
        found[output] = red, green, blue
    return found
