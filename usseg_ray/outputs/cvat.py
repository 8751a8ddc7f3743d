"""CVAT's "Segmentation mask 1.1": a zip of coloured masks and what the colours mean."""

import io
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

from usseg_ray.data.decode import MAX_PIXELS
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import PARTS, Format, Mask, OpenPart, Record, WholeSink, colours, titles

ARCHIVE = "cvat.zip"

_SUBSET = "ImageSets/Segmentation/default.txt"

_BACKGROUND = "background"


class CvatSink(WholeSink):
    """A mask whose colours name its outputs; black is background."""

    def encode(self, mask: Mask) -> bytes:
        """Paints the mask."""
        table = np.zeros((int(mask.max()) + 1, 3), np.uint8)
        for output, colour in colours(self.about.names).items():
            table[output : output + 1] = colour
        stream = io.BytesIO()
        Image.fromarray(table[mask]).save(stream, "PNG")
        return stream.getvalue()


def gather(records: Sequence[Record], names: Names, part: OpenPart, stream: BinaryIO) -> None:
    """Writes the zip; masks are packed already."""
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("labelmap.txt", labelmap(names))
        archive.writestr(_SUBSET, "".join(f"{record.key}\n" for record in records))
        for record in records:
            archive.writestr(f"SegmentationClass/{record.key}.png", part(record))


def labelmap(names: Names) -> str:
    """Says which colour each label has; `:` and `#` mean something there, so labels have none."""
    lines = ["# label:color_rgb:parts:actions", f"{_BACKGROUND}:0,0,0::"]
    taken, shades = {_BACKGROUND}, colours(names)
    for output, title in titles(names).items():
        label = " ".join(title.replace(":", " ").replace("#", " ").split())
        label = label if label and label not in taken else f"{label} ({output})".strip()
        taken.add(label)
        lines.append(f"{label}:{','.join(map(str, shades[output]))}::")
    return "\n".join([*lines, ""])


FORMAT = Format(
    CvatSink,
    f"{PARTS}/cvat",
    lambda _: ".png",
    {ARCHIVE: gather},
    bytes_per_pixel=0.3,
    most_pixels=MAX_PIXELS,
)
