"""What people and other systems leave on disks: walked without junk, read as text, JSON or YAML.

All of it comes from elsewhere, so what is read is bounded and what is wrong is one line.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.core.foreign import is_shown

_JUNK = frozenset({"thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin"})

_MADE = (
    {"predict.json", "names.yaml"},
    {"sweep.yaml", "trial_000"},
    {"trial.json", "evaluation.npz"},
    {"model.yaml", "model.safetensors"},
)
"""What folders of outputs, sweeps, trials and models hold."""

_TRACKED = frozenset({"mlartifacts", "mlruns"})

_MAX_TEXT_BYTES = 64 * 2**20

_MAX_YAML = 2**20


def is_junk(name: str) -> bool:
    """Tells files and folders that systems leave behind: `._X`, `.DS_Store`, `Thumbs.db`, ..."""
    return name.startswith(".") or name.lower() in _JUNK


def is_made(folder: str, names: Collection[str]) -> bool:
    """Tells a folder that a run left where it started: its pictures are none of the user's.

    Args:
        folder: What it is called.
        names: What it holds.
    """
    return folder in _TRACKED or any(made.issubset(names) for made in _MADE)


def without_made(files: Iterable[PurePosixPath]) -> Iterator[PurePosixPath]:
    """Leaves out of a listing what lies in folders that `is_made`.

    Args:
        files: Paths below the folder that was listed, which itself may be one.
    """
    listed = list(files)
    inside = defaultdict[PurePosixPath, set[str]](set)
    for file in listed:
        for path, folder in pairwise([file, *file.parents]):
            inside[folder].add(path.name)
    made = {folder for folder, names in inside.items() if is_made(folder.name, names)}
    made.discard(PurePosixPath())
    return (file for file in listed if made.isdisjoint(file.parents))


def walk(
    folder: Path,
    on_junk: Callable[[Path], object] = lambda _: None,
    on_error: Callable[[OSError], object] = lambda _: None,
    on_made: Callable[[Path], object] = lambda _: None,
) -> Iterator[Path]:
    """Yields every file below a folder, through links too, but never round a loop of them.

    Args:
        folder: Where to begin.
        on_junk: Told each file and folder that `is_junk`, which are passed over.
        on_error: Told each folder that cannot be read.
        on_made: Told each folder that `is_made`, which are not entered; the first may be one.
    """
    for place, below, names in os.walk(folder, followlinks=True, onerror=on_error):
        here = Path(place)
        if here != folder and is_made(here.name, (*below, *names)):
            on_made(here)
            below.clear()
            continue
        inside = here.resolve()
        for name in (*below, *names):
            if is_junk(name):
                on_junk(here / name)
        below[:] = sorted(
            name
            for name in below
            if not is_junk(name) and not inside.is_relative_to((here / name).resolve())
        )
        yield from (here / name for name in sorted(names) if not is_junk(name))


def listed(folder: Path, pattern: str) -> list[Path]:
    """Lists what matches a pattern below a folder, in order, without what `is_junk`."""
    found = sorted(folder.glob(pattern))
    return [path for path in found if not any(map(is_junk, path.relative_to(folder).parts))]


def read_text(path: Path, max_bytes: int = _MAX_TEXT_BYTES) -> str:
    """Reads a text as people's editors write it: UTF-8, with or without a mark before it.

    Args:
        path: The file.
        max_bytes: Size above which it is not read.

    Raises:
        FileNotFoundError: There is none.
        UserError: It cannot be read, is no UTF-8, or is too large to be such a text.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise UserError(f"{path}: larger than {max_bytes // 2**20} MiB, so no such text.")
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: not UTF-8 text. Save it in that encoding (UTF-16, which some editors write, "
            "is another)."
        ) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def load_json(path: Path, max_bytes: int = _MAX_TEXT_BYTES) -> Any:  # noqa: ANN401
    """Reads a JSON file that people write.

    Args:
        path: The file.
        max_bytes: Size above which it is not read.

    Returns:
        Whatever JSON holds.

    Raises:
        UserError: It cannot be read, or is no JSON; says where.
    """
    text = read_text(path, max_bytes)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({first_line(error)}).") from None


def parse_yaml(text: str, where: str) -> Any:  # noqa: ANN401 (whatever YAML holds)
    """Reads YAML that people write: plain values, bounded, without aliases.

    A few aliases of aliases stand for more values than a machine holds.

    Args:
        text: What is read.
        where: Where it stands, for messages.

    Raises:
        UserError: It is no YAML, has aliases, or is too large or too deep.
    """
    if len(text) > _MAX_YAML:
        raise UserError(f"{where}: more than {_MAX_YAML} characters of YAML.")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UserError(f"{where}: has YAML aliases (*name). Write out what they stand for.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"{where} is not YAML ({' '.join(str(error).split())[:200]}).") from None


def check_name(name: str, where: str) -> str:
    """Refuses a name that would lead elsewhere as a part of a path, or that cannot be shown.

    Args:
        name: Of a set or a split.
        where: Who says so, for the message.

    Returns:
        The name.

    Raises:
        UserError: It is empty, too long, or has separators, control characters or a dot in front.
    """
    if (
        not name.strip()
        or len(name) > 120
        or not is_shown(name)
        or name[0] == "."
        or set(name) & set("/\\:")
    ):
        raise UserError(
            f"{where} {name[:120]!r} cannot be part of a path: no /, \\ or : in it, no dot "
            "in front, 120 characters at most."
        )
    return name
