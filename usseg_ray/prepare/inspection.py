"""Checks files before they become rows, and remembers what was wrong with which.

On an image's path it stands between `layouts` and `shards`: names go in, rows come out, and what
cannot be used stays behind with a reason. An image is worth keeping without its label, a label is
nothing without its image.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from usseg_ray.data.decode import UndecodableError, check_label, decode_image, decode_label
from usseg_ray.data.shards import Row
from usseg_ray.prepare.conversion import (
    Cutter,
    classes_of,
    corners,
    mean_of_blocks,
    png_bytes,
    read_mat,
)
from usseg_ray.prepare.layouts import Cut, Entry


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
        num_classes: Classes that the set names, or `None`.
        ignore_index: Label value of pixels without a class.
        class_of: Label value in the files -> class index or `ignore_index`; `None` where files hold
            class indices.

    Attributes:
        problems: What was left out so far.
        top_label: Largest class index seen so far; -1 before the first.
    """

    def __init__(
        self,
        num_classes: int | None,
        ignore_index: int,
        class_of: Mapping[int, int] | None = None,
    ) -> None:
        self._num_classes = num_classes
        self._ignore_index = ignore_index
        self._class_of = class_of
        self._images = Cutter(mean_of_blocks)
        self._labels = Cutter(corners)
        self.problems: list[Problem] = []
        self.top_label = -1

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """Yields the images that decode, in order, with the labels that fit them.

        Args:
            entries: Where the files lie.

        Yields:
            A row with the bytes of the files as they are, where a shard can hold them.
        """
        for entry in entries:
            try:
                image = _picture(entry.image, entry.cut, self._images)
                height, width, _ = decode_image(image).shape
            except (UndecodableError, OSError) as error:
                self.problems.append(
                    Problem(entry.split, entry.id, "image", entry.image, str(error))
                )
                continue
            yield Row(entry.id, image, self._label(entry, height, width), height, width)

    def _label(self, entry: Entry, height: int, width: int) -> bytes | None:
        if entry.label is None:
            return None
        try:
            data = _picture(entry.label, entry.cut, self._labels)
            labels = decode_label(data)
            if self._class_of is not None:
                labels = classes_of(labels, self._class_of)
                data = png_bytes(labels)
            check_label(labels, height, width, self._num_classes, self._ignore_index)
        except (UndecodableError, OSError) as error:
            self.problems.append(Problem(entry.split, entry.id, "label", entry.label, str(error)))
            return None
        known = labels[labels != self._ignore_index]
        self.top_label = max(self.top_label, int(known.max(initial=-1)))
        return data


def _picture(path: str, cut: Cut | None, cutter: Cutter) -> bytes:
    if cut is not None:
        return cutter.cut(path, cut)
    data = Path(path).read_bytes()
    return png_bytes(read_mat(data)) if path.endswith(".mat") else data
