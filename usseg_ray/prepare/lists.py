"""Lists of images, one file a split: names or paths, perhaps with those of their labels."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import read_text
from usseg_ray.data.decode import IMAGE_SUFFIXES
from usseg_ray.prepare.patterns import is_split

_PLACES = ("", "ImageSets/Segmentation", "ImageSets", "splits", "split", "lists")

_MARK = re.compile(r"-?[01]")
"""What VOC's lists of a class have in their second column."""


def split_lists(root: Path) -> dict[str, Path]:
    """Finds a source's lists, `train.txt` and its like: split -> file.

    A list of two splits together (`trainval`) is left out where both have lists of their own.
    """
    for place in _PLACES:
        found = {
            path.stem.lower(): path
            for path in sorted((root / place).glob("*.txt"))
            if is_split(path.stem)
        }
        if {"train", "val"} <= found.keys():
            found.pop("trainval", None)
        if found:
            return found
    return {}


def lines_of(path: Path) -> dict[str, int]:
    """Reads a list of image names, one a line; only the first of two columns is taken.

    A name that stands there twice counts once. Paths of images, as some lists have, are cut to
    the path without its suffix.

    Returns:
        Name -> number of its line.

    Raises:
        UserError: It is no text, or a line has columns that are not an image and its label.
    """
    names: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            names.setdefault(_name(path, number, line.strip()), number)
    return names


def names_in(path: Path) -> list[str]:
    """Reads a list of image names as `lines_of`, without the folders before a name."""
    return list(dict.fromkeys(PurePosixPath(name).name for name in lines_of(path)))


def _name(path: Path, number: int, line: str) -> str:
    columns = line.split()
    first = _without_suffix(columns[0])
    if len(columns) == 1 or _MARK.fullmatch(columns[1]):
        return first
    if len(columns) == 2 and PurePosixPath(_without_suffix(columns[1])).name.startswith(
        PurePosixPath(first).name
    ):
        return first
    if first == columns[0] and Path(line).suffix.lower() in IMAGE_SUFFIXES:  # has spaces
        return _without_suffix(line)
    raise UserError(
        f"{path}, line {number}: one image name was expected, such as 2007_000032, or the paths of "
        f"an image and its label; found {line[:80]!r}."
    )


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name.lstrip("/").replace("\\", "/"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def assigned(lists: Mapping[str, Path], ids: Mapping[str, str]) -> dict[str, str]:
    """Says which split each listed image belongs to.

    Args:
        lists: Split -> its list.
        ids: What a list may call an image -> its id.

    Returns:
        Id -> split.

    Raises:
        UserError: A list is empty or names an image that is not there, or two name the same one.
    """
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        listed = lines_of(path)
        if not listed:
            raise UserError(f"{path}: no image in this list, so split {split!r} would be empty.")
        for name, number in listed.items():
            key = ids.get(name) or ids.get(PurePosixPath(name).name)
            if key is None:
                raise UserError(f"{path}, line {number}: there is no image {name!r}.")
            if split_of.setdefault(key, split) != split:
                other = lists[split_of[key]].name
                raise UserError(f"{path}, line {number}: {name!r} is in {other} too.")
    return split_of
