"""COCO annotations: each connected part of an output as packed run lengths.

They are marked as crowds, which is how COCO tells run lengths from polygons.
"""

import json
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from scipy import ndimage

from usseg_ray.data.decode import MAX_PIXELS
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import PARTS, Format, Mask, OpenPart, Record, WholeSink, colours, titles
from usseg_ray.outputs.runs import counts_of, packed

ANNOTATIONS = "annotations.json"


class CocoSink(WholeSink):
    """An image's annotations, without the numbers that those of all images get."""

    def encode(self, mask: Mask) -> bytes:
        """Finds the connected parts, over edges and not over corners, and counts their runs."""
        found = []
        for output in self.about.names.outputs:
            parts, _ = ndimage.label(mask == output)
            for number, place in enumerate(ndimage.find_objects(parts), 1):
                found.append(self._annotation(output, parts[place] == number, place))
        return json.dumps(found).encode()

    def _annotation(
        self, output: int, part: np.ndarray, place: tuple[slice, ...]
    ) -> dict[str, object]:
        top, left = place[0].start, place[1].start
        size = (self.about.height, self.about.width)
        return {
            "category_id": category(output),
            "segmentation": {"size": size, "counts": packed(counts_of(part, top, left, size))},
            "area": int(part.sum()),
            "bbox": [left, top, part.shape[1], part.shape[0]],
            "iscrowd": 1,
        }


def category(output: int) -> int:
    """Numbers an output's category: in COCO's readers 0 is none."""
    return output + 1


def gather(records: Sequence[Record], names: Names, part: OpenPart, stream: BinaryIO) -> None:
    """Writes the file of all images, one annotation a line."""
    shades, called = colours(names), titles(names)
    categories = [
        {
            "id": category(output),
            "name": called[output],
            "supercategory": "cluster",
            "color": shades[output],
        }
        for output in names.outputs
    ]
    images = [
        {"id": number, "file_name": record.name, "height": record.height, "width": record.width}
        for number, record in enumerate(records, 1)
    ]
    head = json.dumps({"images": images, "categories": categories}, ensure_ascii=False)
    stream.write(f'{head[:-1]}, "annotations": [\n'.encode())
    number = 0
    for image, record in enumerate(records, 1):
        for annotation in json.loads(part(record)):
            number += 1
            line = json.dumps({"id": number, "image_id": image, **annotation})
            stream.write(f"{',' if number > 1 else ''}{line}\n".encode())
    stream.write(b"]}\n")


FORMAT = Format(
    CocoSink,
    f"{PARTS}/coco",
    lambda _: ".json",
    {ANNOTATIONS: gather},
    bytes_per_pixel=0.2,
    most_pixels=MAX_PIXELS,
)
