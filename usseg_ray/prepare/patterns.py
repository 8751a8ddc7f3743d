"""Folder layouts as patterns of paths: those that people have, and those that they say.

A pattern is a path below the source with words in braces. `{id}` is the image's name (and the
folders before it), `{split}` a folder that names a split. A layout of our own table also knows
`{part}`, a folder that is called like a split (`train`, `val2017`, ...), and `{images}` and
`{labels}`, folders that are called so in one of the ways in use, in any capitals.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import is_uri
from usseg_ray.core.sources import is_junk
from usseg_ray.prepare.packed import KEPT, divided, unpack_images

_IMAGES = r"images?|imgs?|img_dir|JPEGImages|leftImg8bit"
_LABELS = (
    r"labels?|masks?|annotations?|annots?|ann_dir|SegmentationClass(?:Aug)?|segmentations?|segs?|gt|gtFine|"
    r"ground[_ -]?truths?|label[_ -]?(?:maps?|ids)"
)
_PART = r"(?:train|training|trainval|val|valid|validation|dev|test|testing)\d{0,4}"

_WORDS = {
    "id": r"(?P<id>.+)",
    "split": r"(?P<split>[^/]+)",
    "part": rf"(?P<split>(?i:{_PART}))",
    "images": rf"(?i:{_IMAGES})",
    "labels": rf"(?i:{_LABELS})",
}

_LABEL_FOLDER = re.compile(rf"(?:{_LABELS})", re.IGNORECASE)
_SPLIT = re.compile(_PART, re.IGNORECASE)
_MEANT = re.compile(rf"{_PART}|{_IMAGES}|{_LABELS}", re.IGNORECASE)
_LABEL_TAIL = re.compile(
    r"(?:[_. -](?:masks?|labels?|gt|segs?|segmentation|annotations?|gtFine|label(?:Train)?Ids))+",
    re.IGNORECASE,
)
_IMAGE_TAIL = re.compile(r"[_-](?:leftImg8bit|images?|img|rgb)", re.IGNORECASE)
_TAIL = re.compile(rf"(?:{_LABEL_TAIL.pattern}|{_IMAGE_TAIL.pattern})$", re.IGNORECASE)
_IMAGE_HEAD = re.compile(r"(?:images?|img|rgb)[_. -]", re.IGNORECASE)
_EDGE = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Layout:
    """Where images and their labels lie below a source, as patterns."""

    images: str
    labels: str

    @property
    def beside_anything(self) -> bool:
        """Whether images lie in no folder of their own, so that labels may lie among them."""
        return "{images}" not in self.images


LAYOUTS = (
    Layout("{split}/{images}/{id}", "{split}/{labels}/{id}"),
    Layout("{images}/{part}/{id}", "{labels}/{part}/{id}"),
    Layout("{images}/{id}", "{labels}/{id}"),
    Layout("{part}/{id}", r"{part}[_-]?{labels}/{id}"),
)
"""Tried in this order; the first whose image pattern fits a file is the source's."""

PLAIN = Layout("{id}", "(?!){id}")
"""Any other folder: every image below it, and no folder of labels."""


@dataclass(frozen=True)
class FileMatch:
    """A file that a pattern fits.

    Attributes:
        split: Named in its path, in small letters if it is a usual name; empty if none is.
        id: What is left of its path, without the suffix.
    """

    split: str
    id: str


class Pattern:
    """A pattern of paths.

    Args:
        text: Such as `{images}/{part}/{id}`; with a suffix behind `{id}`, others do not fit.
    """

    def __init__(self, text: str) -> None:
        self._whole = bool(re.search(r"\.\w+$", text.rsplit("}", 1)[-1]))
        self._regex = re.compile(
            re.sub(r"\{(\w+)\}", lambda word: _WORDS[word[1]], text), re.DOTALL
        )

    @property
    def has_split(self) -> bool:
        """Whether the path names the split."""
        return "split" in self._regex.groupindex

    def find(self, path: Path) -> FileMatch | None:
        """Says what a path below the source is, `None` if it does not fit."""
        text = path.as_posix() if self._whole else path.with_suffix("").as_posix()
        fits = self._regex.fullmatch(text)
        if fits is None:
            return None
        split = fits.groupdict().get("split") or ""
        return FileMatch(split.lower() if _SPLIT.fullmatch(split) else split, fits["id"])


def own_pattern(text: str, root: Path, option: str) -> tuple[Path, Pattern]:
    """Reads `--images` or `--labels`.

    Args:
        text: A folder, or a path with `{id}` and perhaps `{split}` and `*`; below the source,
            absolute, or a URI, whose images are fetched.
        root: The source.
        option: Its name, for messages.

    Returns:
        The folder below which the pattern looks, and the pattern.

    Raises:
        UserError: A word in braces is not known, or there is no such place.
    """
    strange = set(re.findall(r"\{(.*?)\}", text)) - {"id", "split"}
    if strange or text.count("{id}") > 1 or text.count("{split}") > 1:
        raise UserError(f"{option} {text}: the words are {{id}} and {{split}}, each once.")
    if is_uri(text):
        text = _fetched(text)
    parts = Path(text if "{id}" in text else f"{text}/{{id}}").parts
    fixed = next(index for index, part in enumerate(parts) if set(part) & set("{*"))
    base = root.joinpath(*parts[:fixed])
    if not base.is_dir():
        raise UserError(f"{option} {text}: {base} is no folder.")
    return base, Pattern("/".join(map(_as_regex, parts[fixed:])))


def _fetched(text: str) -> str:
    """Brings what a URI holds here, and writes the pattern as a path."""
    if text.startswith("file://"):
        return unquote(urlsplit(text).path)
    place, pattern = divided(text)
    return f"{unpack_images(place, KEPT).absolute()}/{pattern or '{id}'}"


def _as_regex(part: str) -> str:
    pieces = re.split(r"(\{\w+\}|\*\*|\*)", part)
    stars = {"**": ".*", "*": "[^/]*"}
    return "".join(
        piece if piece.startswith("{") else stars.get(piece, re.escape(piece)) for piece in pieces
    )


def is_split(name: str) -> bool:
    """Tells whether a split is usually called so."""
    return _SPLIT.fullmatch(name) is not None


def label_folder(key: str) -> str | None:
    """Finds a folder in an id that is called as labels are."""
    return next((part for part in key.split("/")[:-1] if _LABEL_FOLDER.fullmatch(part)), None)


def is_label_name(key: str) -> bool:
    """Tells whether a name ends as labels' names do, in `_mask`, `_gt` and their like."""
    return re.search(rf"(?:{_LABEL_TAIL.pattern})$", key, re.IGNORECASE) is not None


def without_tail(key: str) -> str:
    """Takes `_mask`, `_label`, `_leftImg8bit` and their like from the end of an id."""
    return _TAIL.sub("", key)


def without_head(name: str) -> str:
    """Takes `img_`, `rgb_` and their like from the start of a name."""
    head = _IMAGE_HEAD.match(name)
    return name[head.end() :] if head else name


def names_within(name: str) -> set[str]:
    """Lists what is left of a name without words before or behind: `07` of `mask_07`.

    Returns:
        The name itself too; words with digits in them are never taken away.
    """
    found = {name}
    for edge in _EDGE.finditer(name):
        before, after = name[: edge.start()], name[edge.end() :]
        found |= {left for left, gone in ((before, after), (after, before)) if _is_word(gone)}
    return found - {""}


def _is_word(text: str) -> bool:
    return text != "" and not any(letter.isdigit() for letter in text)


def roots(source: Path) -> Iterator[Path]:
    """Yields the folder that a folder holds alone, as unpacked archives do, then itself."""
    inside = [path for path in source.iterdir() if not is_junk(path.name)]
    if len(inside) == 1 and inside[0].is_dir() and not _MEANT.fullmatch(inside[0].name):
        yield from roots(inside[0])
    yield source
