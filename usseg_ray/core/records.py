"""The small JSON files of a run: written whole, with their sum, and read through a type."""

import json
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import write_whole

Kind = TypeVar("Kind")


_SUM = "sha256"
_VALUE = "value"


class DamagedError(UserError):
    """A file of a run is not what was written there."""


def write_json(path: Path, value: object) -> None:
    """Writes a value as JSON in one move; missing folders are made.

    The file is an object with a key more, `sha256`, of all others; what is no object stands in one
    under `value`.

    Raises:
        OSError: The disk is full, for example; what stood there before is left.
    """
    told = value if isinstance(value, dict) else {_VALUE: value}
    write_whole(path, json.dumps({**told, _SUM: _sum(told)}, indent=1))


def read_json(path: Path, kind: type[Kind], cure: str) -> Kind:
    """Reads what `write_json` wrote.

    Args:
        path: Where.
        kind: What it must hold: a dataclass, a model, or something like `dict[str, float]`.
        cure: What to do if it holds anything else, in a sentence.

    Returns:
        The value; one that was written without a sum, by hand for example, is believed.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: It holds something else, another sum, or no JSON at all.
    """
    content = path.read_bytes()
    try:
        return TypeAdapter(kind).validate_json(_believed(content), strict=True)
    except ValidationError as error:
        raise DamagedError(f"{path} is damaged: {first_fault(error)}. {cure}") from None
    except _OtherSumError:
        raise DamagedError(
            f"{path} is damaged: its content has not the sha256 that it says (which goes out where "
            f"a hand changed it). {cure}"
        ) from None


class _OtherSumError(Exception):
    """A record says a sum that its content has not."""


def _believed(content: bytes) -> bytes:
    """Takes the sum off a record that has one, if it is right."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(told, dict) or _SUM not in told:
        return content
    if told.pop(_SUM) != _sum(told):
        raise _OtherSumError
    return json.dumps(told[_VALUE] if told.keys() == {_VALUE} else told).encode()


def _sum(told: dict[str, object]) -> str:
    return sha256(json.dumps(told).encode()).hexdigest()


def first_fault(error: ValidationError) -> str:
    """Words the first thing that a model found wrong: where, and what."""
    first = error.errors()[0]
    where = ".".join(str(key) for key in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
