"""Segmentations as a model makes them, without a model: for the suites of the formats."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usseg_ray.models.names import Name, Names
from usseg_ray.outputs.base import About, Format, Georeference, Record, Strip
from usseg_ray.outputs.places import ImageFile
from usseg_ray.outputs.work import OutputCounts

NAMES = Names(
    (
        Name(name="road: old", colour="#804080"),
        Name(name="sky", colour="#4682b4"),
        Name(name="sky", colour="#4682b4"),
        Name(name="shadow", colour="#000000"),
        Name(name="car", colour="#ff0000", merge_into=0),
        Name(name="frame", colour="#ffffff", ignore=True),
    )
)
IGNORED = 255
UTM = Georeference("EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))


def mask_of(height: int = 40, width: int = 56) -> np.ndarray:
    """Draws outputs: quarters, an island, a ragged border, a frame that is ignored."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, width // 2 :] = 1
    mask[height // 2 :, : width // 2] = 2
    mask[height // 2 :, width // 2 :] = 3
    mask[4:9, 6:15] = 2
    noise = np.random.default_rng(0).random(mask.shape) < 0.02
    mask[noise] = 1
    mask[:2] = IGNORED
    return mask


def about(mask: np.ndarray, name: str = "a b/ü.jpg", place: Georeference | None = None) -> About:
    height, width = mask.shape
    return About(name, name.rpartition(".")[0], height, width, NAMES, place)


def strips(mask: np.ndarray, rows: int | None = None) -> list[Strip]:
    """Cuts a mask into strips, with a confidence and an image that follow from it."""
    height, width = mask.shape
    confidence = np.linspace(0.2, 1, height * width, dtype=np.float32).reshape(mask.shape)
    image = np.repeat((mask.astype(np.uint16) * 40 % 256).astype(np.uint8)[..., None], 3, axis=2)
    step = rows or height
    return [
        Strip(mask[top : top + step], confidence[top : top + step], image[top : top + step])
        for top in range(0, height, step)
    ]


def written(form: Format, of: About, given: Sequence[Strip]) -> bytes:
    """Makes an image's file."""
    assert form.sink is not None
    sink = form.sink(of)
    for strip in given:
        sink.write(strip)
    with sink.finish() as stream:
        data = stream.read()
    sink.close()
    return data


def record(of: About, given: Sequence[Strip], name: str = "") -> Record:
    tally = OutputCounts(of)
    for strip in given:
        tally.add(strip)
    found = ImageFile(of.name, of.key, "", (1, 2))
    return tally.record(found, {name: name} if name else {})


def gathered(form: Format, which: str, masks: dict[str, np.ndarray], path: Path) -> Path:
    """Makes a file of all images, named as it is called, in a folder."""
    parts, records = {}, []
    for name, mask in masks.items():
        of, given = about(mask, name), strips(mask)
        parts[name] = written(form, of, given) if form.sink else b""
        records.append(record(of, given))
    stream = io.BytesIO()
    form.gathered[which](records, NAMES, lambda of: parts[of.name], stream)
    (path / which).write_bytes(stream.getvalue())
    return path / which
