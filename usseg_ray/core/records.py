"""The small JSON files of a run: written whole, and read through a type."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole

Kind = TypeVar("Kind")


class DamagedError(UserError):
    """A file of a run is not what was written there."""


def write_json(path: Path, value: object) -> None:
    """Writes a value as JSON in one move; missing folders are made.

    Raises:
        OSError: The disk is full, for example; what stood there before is left.
    """
    write_whole(path, json.dumps(value, indent=1))


def read_json(path: Path, kind: type[Kind], cure: str) -> Kind:
    """Reads what `write_json` wrote.

    Args:
        path: Where.
        kind: What it must hold: a dataclass, a model, or something like `dict[str, float]`.
        cure: What to do if it holds anything else, in a sentence.

    Returns:
        The value.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: It holds something else, or no JSON at all.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise DamagedError(f"{path} is damaged: {first_fault(error)}. {cure}") from None


def first_fault(error: ValidationError) -> str:
    """Words the first thing that a model found wrong: where, and what."""
    first = error.errors()[0]
    where = ".".join(str(key) for key in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
