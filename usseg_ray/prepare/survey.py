"""What the numbers of a set's training images are, looked up once before the set is written."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Num

from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.numbers import decode_numbers, depth_of
from usseg_ray.data.scaling import Scaling, Sight
from usseg_ray.prepare.entries import Cut, Entry, ImageSet, Window
from usseg_ray.prepare.pairing import DEFAULT_SPLIT
from usseg_ray.prepare.windows import Windows

MOST_IMAGES = 64
"""Images whose numbers are looked up, evenly spread over the split."""

MOST_PIXELS = 2**16
"""Of each, on a regular grid."""


def survey(images: ImageSet, bands: tuple[str, ...] = ()) -> Sight:
    """Says how a set's files are to be seen.

    Numbers of more than 8 bits are scaled by percentiles of those of the training split, or of all
    images where no split is called so.

    Args:
        images: What was found; large ones cut.
        bands: What the user chose.
    """
    training = images.splits.get(DEFAULT_SPLIT)
    entries = training or images.entries
    spread = dict.fromkeys(place * len(entries) // MOST_IMAGES for place in range(MOST_IMAGES))
    deep = [
        (entry, depth) for entry in map(entries.__getitem__, spread) if (depth := _depth(entry))
    ]
    if not deep:
        return Sight(bands=bands)
    samples, absent = _samples([entry for entry, _ in deep], bands)
    if not samples:
        return Sight(bands=bands)
    kinds = "/".join(dict.fromkeys(depth for _, depth in deep))
    numbers = [np.concatenate([sample[:, band] for sample in samples]) for band in range(3)]
    whose = "the training images' values" if training else "the images' values"
    if absent:
        whose += f" without nodata ({absent:.0%})"
    return Sight(bands=bands, scaling=Scaling.of(numbers, kinds, whose))


def _depth(entry: Entry) -> str:
    """Says what numbers an image holds; of one that cannot be read, nothing."""
    if isinstance(entry.cut, Cut):
        return ""
    try:
        with Path(entry.image).open("rb") as stream:
            return depth_of(stream)
    except (UndecodableError, OSError):
        return ""


def _samples(
    entries: Sequence[Entry], bands: tuple[str, ...]
) -> tuple[list[Num[np.ndarray, "n 3"]], float]:
    """Reads some pixels of each image; those that cannot be read are told when they are written.

    Returns:
        The pixels that hold something, and the share of those that hold nothing.
    """
    samples, looked_at = [], 0
    with Windows(bands) as windows:
        for entry in entries:
            part = entry.cut if isinstance(entry.cut, Window) else None
            try:
                if part is not None:
                    numbers = windows.image(entry.image, part)
                else:
                    numbers = decode_numbers(Path(entry.image).read_bytes(), bands)
            except (UndecodableError, OSError):
                continue
            step = max(1, round((numbers.shape[0] * numbers.shape[1] / MOST_PIXELS) ** 0.5))
            sample = numbers[::step, ::step].reshape(-1, 3).astype(np.float32)
            looked_at += len(sample)
            with suppress(UndecodableError, OSError):  # what else reads it knows of no mask
                absent = windows.absent(entry.image, part)
                sample = sample if absent is None else sample[~absent[::step, ::step].ravel()]
            samples.append(sample)
    return samples, 1 - sum(map(len, samples)) / max(looked_at, 1)
