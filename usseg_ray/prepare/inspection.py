"""Checks files before they become rows, and remembers what was wrong with which.

On an image's path it stands between `layouts` and `shards`: names go in, rows come out, and what
cannot be used stays behind with a reason. An image is worth keeping without its label, a label is
nothing without its image.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32

from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import (
    MAX_FILE_BYTES,
    check_aspect,
    check_label,
    decode_label,
    turn_of,
)
from usseg_ray.data.numbers import decode_seen, is_plain, seen
from usseg_ray.data.scaling import AS_THEY_ARE, Sight
from usseg_ray.data.shards import Row
from usseg_ray.prepare.conversion import (
    Cutter,
    classes_of,
    classes_of_colours,
    corners,
    mean_of_blocks,
    png_bytes,
    read_mat,
)
from usseg_ray.prepare.drawing import draw_labels
from usseg_ray.prepare.entries import Cut, Entry, Window
from usseg_ray.prepare.meaning import Meaning
from usseg_ray.prepare.windows import Windows


@dataclass(frozen=True)
class Problem:
    """A file that was left out.

    Attributes:
        split: Of the image.
        id: Of the image.
        kind: `image`, or `label` (then the image was kept without it).
        path: The file.
        reason: Why.
    """

    split: str
    id: str
    kind: Literal["image", "label"]
    path: str
    reason: str


class Inspector:
    """Reads and checks images one by one.

    Args:
        meaning: What label values mean.
        sight: How images are seen.

    Attributes:
        problems: What was left out so far.
        values: Class indices seen so far, and the ignore index if it was.
        turned: Labelled images so far that EXIF turns without changing their sides.
    """

    def __init__(self, meaning: Meaning, sight: Sight = AS_THEY_ARE) -> None:
        self._meaning, self._sight = meaning, sight
        self._images = Cutter(mean_of_blocks)
        self._labels = Cutter(corners)
        self.problems: list[Problem] = []
        self.values: set[int] = set()
        self.turned = 0

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """Yields the images that decode, in order, with the labels that fit them.

        Args:
            entries: Where the files lie.

        Yields:
            A row with the bytes of the files as they are, where a shard can hold them.
        """
        with Windows(self._sight.bands) as windows:
            for entry in entries:
                try:
                    image, (height, width), turn = self._image(entry, windows)
                    check_aspect(height, width)
                except (UndecodableError, OSError) as error:
                    self._leave_out(entry, "image", entry.image, error)
                    continue
                label = self._label(entry, windows, (height, width), turn)
                yield Row(entry.id, image, label, height, width)

    def _image(self, entry: Entry, windows: Windows) -> tuple[bytes, tuple[int, int], int]:
        """Returns what a shard holds of an image, its upright size, and how EXIF turned it."""
        cut, sight = entry.cut, self._sight
        if isinstance(cut, Window):
            data = png_bytes(seen(windows.image(entry.image, cut), sight))
            return data, (cut.height, cut.width), 1
        data = _picture(entry.image, cut, self._images)
        pixels = decode_seen(data, sight)
        kept = data if is_plain(data, sight) else png_bytes(pixels)
        return kept, (pixels.shape[0], pixels.shape[1]), turn_of(data)

    def _label(
        self, entry: Entry, windows: Windows, size: tuple[int, int], turn: int
    ) -> bytes | None:
        if entry.label is None:
            return None
        meaning = self._meaning
        try:
            labels, data = _numbers(self._map(entry.label, entry, windows), meaning)
            _explain_turn(labels.shape, size, turn)
            check_label(labels, *size, meaning.num_classes, meaning.ignore_index)
        except (UndecodableError, OSError) as error:
            self._leave_out(entry, "label", entry.label, error)
            return None
        self.values |= set(np.unique(labels).tolist())
        self.turned += turn in (2, 3, 4) or (turn >= 5 and size[0] == size[1])
        return data

    def _map(self, path: str, entry: Entry, windows: Windows) -> bytes:
        if isinstance(entry.cut, Window):
            return windows.label(path, entry.cut)
        if entry.drawing is not None:
            return png_bytes(draw_labels(entry.drawing))
        return _picture(path, entry.cut, self._labels)

    def _leave_out(
        self, entry: Entry, kind: Literal["image", "label"], path: str, error: Exception
    ) -> None:
        self.problems.append(Problem(entry.split, entry.id, kind, path, str(error)))


def _picture(path: str, cut: Cut | None, cutter: Cutter) -> bytes:
    if cut is not None:
        return cutter.cut(path, cut)
    file = Path(path)
    if file.exists() and not file.is_file():
        raise UndecodableError("neither a file nor a link to one")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UndecodableError(f"larger than {MAX_FILE_BYTES // 2**30} GiB")
    data = file.read_bytes()
    return png_bytes(read_mat(data)) if path.endswith(".mat") else data


def _numbers(data: bytes, meaning: Meaning) -> tuple[Int32[np.ndarray, "H W"], bytes]:
    """Decodes a label to class indices, and returns the file that holds them."""
    painted = classes_of_colours(data, meaning.colours) if meaning.colours else None
    if painted is not None:
        return painted, png_bytes(painted)
    labels = decode_label(data)
    if meaning.class_of is None:
        return labels, data
    labels = classes_of(labels, meaning.class_of)
    return labels, png_bytes(labels)


def _explain_turn(label: tuple[int, ...], image: tuple[int, int], turn: int) -> None:
    if turn >= 5 and label == image[::-1] != image:
        raise UndecodableError(
            f"the label is {label[1]}x{label[0]} as its image lies in the file, but EXIF turns the "
            f"image upright to {image[1]}x{image[0]}: turn the label, or remove the orientation"
        )
