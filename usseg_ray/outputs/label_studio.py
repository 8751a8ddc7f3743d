"""Label Studio's tasks with brush predictions, and the labelling set-up that shows them."""

import json
from collections.abc import Sequence
from typing import BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from usseg_ray.data.decode import MAX_PIXELS
from usseg_ray.models.names import Names
from usseg_ray.outputs.base import PARTS, Format, Mask, OpenPart, Record, WholeSink, colours, titles
from usseg_ray.outputs.runs import brush

TASKS, SET_UP = "label_studio.json", "label_studio.xml"

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves a folder of its own machine; the images' names follow."""


class LabelStudioSink(WholeSink):
    """The brushes of an image, one an output."""

    def encode(self, mask: Mask) -> bytes:
        """Writes the brushes."""
        about, called = self.about, titles(self.about.names)
        found = [
            {
                "id": f"cluster-{output}",
                "type": "brushlabels",
                "from_name": "tag",
                "to_name": "image",
                "original_width": about.width,
                "original_height": about.height,
                "image_rotation": 0,
                "value": {
                    "format": "rle",
                    "rle": brush(mask == output),
                    "brushlabels": [called[output]],
                },
            }
            for output in about.names.outputs
            if (mask == output).any()
        ]
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def gather(records: Sequence[Record], _: Names, part: OpenPart, stream: BinaryIO) -> None:
    """Writes the tasks, one a line."""
    for index, record in enumerate(records):
        stream.write(b"[\n" if index == 0 else b",\n")
        image = json.dumps({"image": LOCAL_FILES + quote(record.name)})
        score = _mean_confidence(record)
        head = f'{{"data": {image}, "predictions": [{{"model_version": "usseg_ray"'
        stream.write(f'{head}, "score": {score:.6f}, "result": '.encode())
        stream.write(part(record))
        stream.write(b"}]}")
    stream.write(b"\n]\n" if records else b"[]\n")


def _mean_confidence(record: Record) -> float:
    """Of all pixels that are of an output; 0 where none is."""
    total = sum(record.pixels.values())
    certain = sum(record.confidence[output] * count for output, count in record.pixels.items())
    return certain / total if total else 0.0


def gather_set_up(_: Sequence[Record], names: Names, __: OpenPart, stream: BinaryIO) -> None:
    """Writes the set-up: the labels with their colours."""
    shades = colours(names)
    labels = "".join(
        f'    <Label value={quoteattr(title)} background="#{bytes(shades[output]).hex()}"/>\n'
        for output, title in titles(names).items()
    )
    stream.write(
        "<View>\n"
        '  <Image name="image" value="$image" zoom="true"/>\n'
        '  <BrushLabels name="tag" toName="image">\n'
        f"{labels}"
        "  </BrushLabels>\n"
        "</View>\n".encode()
    )


FORMAT = Format(
    LabelStudioSink,
    f"{PARTS}/label-studio",
    lambda _: ".json",
    {TASKS: gather, SET_UP: gather_set_up},
    bytes_per_pixel=0.8,
    most_pixels=MAX_PIXELS,
)
