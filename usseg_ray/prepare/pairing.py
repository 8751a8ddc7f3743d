"""Which label belongs to which image, once it is known which files may be either.

A label file is never taken for an image: where names do not tell them apart, the layout is refused
with what was found.
"""

import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from usseg_ray.core.errors import UserError
from usseg_ray.core.foreign import is_shown
from usseg_ray.data.containers import JPEG, PNG, container_of
from usseg_ray.data.decode import IMAGE_SUFFIXES
from usseg_ray.prepare.entries import Entry
from usseg_ray.prepare.passed import PassedFiles
from usseg_ray.prepare.patterns import (
    FileMatch,
    is_label_name,
    label_folder,
    names_within,
    without_head,
    without_tail,
)

DEFAULT_SPLIT = "train"

HOW_TO_SAY = "Say where they lie: prepare --images 'FOLDER/{id}' --labels 'FOLDER/{id}.png'."

_PEEKS, _START = 256, 64

# What labels are kept in, whether or not they are read.
_OF_LABELS = frozenset({".png", ".gif", ".npy", ".npz", ".mat", ".txt", ".json", ".xml"})


@dataclass
class _Split:
    images: dict[str, Path] = field(default_factory=dict)
    labels: list[tuple[str, Path]] = field(default_factory=list)
    twins: dict[str, Path] = field(default_factory=dict)


class Pairing:
    """Takes files one by one, and makes entries of them.

    Args:
        passed: Told what is neither image nor label.
    """

    def __init__(self, passed: PassedFiles) -> None:
        self._passed = passed
        self._splits = defaultdict[str, _Split](_Split)
        self._others: dict[str, Path] = {}

    def add(self, path: Path, image: FileMatch | None, label: FileMatch | None) -> None:
        """Takes a file.

        Args:
            path: The file.
            image: What it is as an image, `None` if its place is not one of images.
            label: The same for labels.
        """
        if label is not None:
            self._splits[label.split or DEFAULT_SPLIT].labels.append((_id(path, label), path))
        elif image is None or not is_picture(path):
            self._pass_over(path)
        else:
            self._add_image(path, image)

    def _pass_over(self, path: Path) -> None:
        self._passed.other(path)
        if path.suffix.lower() in _OF_LABELS:
            self._others[without_tail(path.stem)] = path

    def _add_image(self, path: Path, image: FileMatch) -> None:
        part, key = self._splits[image.split or DEFAULT_SPLIT], _id(path, image)
        first = part.images.get(key)
        if first is not None and _is_gif(first):
            part.images[key], first, path = path, path, first
        if first is None:
            part.images[key] = path
        elif _is_gif(path):  # perhaps its label
            self._pass_over(path)
        elif _differ_in_format(first, path):
            part.twins[key] = path
            part.images[key + path.suffix] = path
        else:
            raise UserError(
                f"{path}: {first.name} beside it has the same name, and names are ids. Rename "
                "or remove one. Is one the label? --images '{id}.jpg' --labels '{id}.png'."
            )

    def refuse_label_like(self) -> None:
        """Refuses pictures of one channel that are called as other images are, or nearly so.

        Raises:
            UserError: There are some; names them.
        """
        for part in self._splits.values():
            _move_labels(part)
            named = defaultdict[str, list[Path]](list)
            for path in part.images.values():
                named[without_tail(without_head(path.stem))].append(path)
            alike = (
                (path, other)
                for path in part.images.values()
                if path.suffix.lower() == ".png"
                for name in names_within(without_tail(path.stem))
                for other in named.get(name, ())
                if other is not path
            )
            for path, other in islice(alike, _PEEKS):
                if _channels(path) < _channels(other):
                    raise UserError(
                        f"{path}: a picture of one channel that is called as an image "
                        f"({other.name}) is. Is it a label? {HOW_TO_SAY}"
                    )

    def entries(self) -> list[Entry]:
        """Pairs images with labels.

        Returns:
            Entries sorted by split and id.

        Raises:
            UserError: Labels have no image, an image two labels, or labels another format.
        """
        found = [
            Entry(key, split, str(path), str(truths[key]) if key in truths else None)
            for split, part in sorted(self._splits.items())
            for truths in [self._truths(split, part)]
            for key, path in sorted(part.images.items())
        ]
        if all(entry.label is None for entry in found):
            names = {without_tail(PurePosixPath(entry.id).name) for entry in found}
            self._passed.called_as_images(
                [self._others[name] for name in names & self._others.keys()]
            )
        return found

    def _truths(self, split: str, part: _Split) -> dict[str, Path]:
        _move_labels(part)
        self._check_images(split, part)
        stems = {without_tail(key): key for key in part.images}
        truths: dict[str, Path] = {}
        lost, unread = [], []
        # Exact names first: they win over those with a tail.
        for key, path in sorted(part.labels, key=lambda label: label[0] not in part.images):
            image = key if key in part.images else stems.get(without_tail(key))
            if path.suffix.lower() != ".png":
                unread.append((image, path))
            elif image in part.twins:
                raise UserError(
                    f"{path}: the label of which image? {part.images[image].name} and "
                    f"{part.twins[image].name} have its name. Rename or remove one."
                )
            elif image is None:
                lost.append((key, path))
            elif image not in truths:
                truths[image] = path
            elif key not in part.images and truths[image].stem != Path(image).name:
                raise UserError(
                    f"{path}: {truths[image].name} is a label of the same image. {HOW_TO_SAY}"
                )
            else:
                self._passed.other(path)
        _refuse_lost(lost, split)
        self._refuse_unread(unread, truths)
        return truths

    def _check_images(self, split: str, part: _Split) -> None:
        if part.labels and not part.images:
            raise UserError(
                f"{part.labels[0][1].parent}: split {split!r} has labels but no images. Add "
                f"them, or remove the split. {HOW_TO_SAY}"
            )
        for key, path in part.images.items():
            folder = label_folder(key)
            if folder is not None:
                raise UserError(
                    f"{path}: its folder {folder!r} is called as labels are, but no folder of "
                    f"images fits it. {HOW_TO_SAY}"
                )

    def _refuse_unread(
        self, unread: list[tuple[str | None, Path]], truths: dict[str, Path]
    ) -> None:
        wanted = [path for image, path in unread if image is not None and image not in truths]
        if wanted:
            raise UserError(
                f"{wanted[0]}: a label must be a PNG file of class indices, and {len(wanted)} are "
                f"{', '.join(sorted({path.suffix for path in wanted}))} files. Convert them first."
            )
        for _, path in unread:
            self._passed.other(path)


def is_picture(path: Path) -> bool:
    """Tells by the suffix whether a file is an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _id(path: Path, found: FileMatch) -> str:
    key = unicodedata.normalize("NFC", found.id)
    if not is_shown(key):
        raise UserError(f"{str(path)!r}: the name has characters that cannot be printed.")
    return key


def _is_gif(path: Path) -> bool:
    return _start(path).startswith(b"GIF8")


def _differ_in_format(one: Path, other: Path) -> bool:
    """Tells photographs in two formats, as cameras keep them, from what may be a label of one."""
    kinds = [(path.suffix.lower(), _is_photograph(path)) for path in (one, other)]
    return kinds[0][0] != kinds[1][0] and all(photograph for _, photograph in kinds)


def _is_photograph(path: Path) -> bool:
    """Reads from a file's start whether its format loses what a label must keep."""
    start = _start(path)
    return start.startswith((JPEG, b"RIFF")) or container_of(start) != b""


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_START)
    except OSError:
        return b""


def _move_labels(part: _Split) -> None:
    """Makes labels of files beside an image that are called as it is with `_mask` behind."""
    stems = {without_tail(key) for key in part.images if not is_label_name(key)}
    for key in [key for key in part.images if is_label_name(key) and without_tail(key) in stems]:
        part.labels.append((key, part.images.pop(key)))


def _refuse_lost(lost: list[tuple[str, Path]], split: str) -> None:
    if lost:
        key, path = lost[0]
        raise UserError(
            f"{path}: no image {key}.* in split {split!r} ({len(lost)} labels without an image). "
            "Give an image and its label the same name."
        )


def _channels(path: Path) -> int:
    """Reads from a PNG file's header whether it has a palette (0), grey (1) or colours (3)."""
    start = _start(path)
    return {b"\0": 1, b"\3": 0}.get(start[25:26], 3) if start.startswith(PNG) else 3
