"""Files of NumPy arrays: read through what they must hold, never as Python objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.core.records import DamagedError

_SHOWN = 80


def read_arrays(
    source: Path | BinaryIO, dims: Mapping[str, int], cure: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Reads a file of arrays (`.npz`).

    Args:
        source: Where it lies, or its bytes.
        dims: Arrays that it must have, and how many dimensions each.
        cure: What to do if it is anything else, in a sentence.

    Returns:
        All its arrays, by name.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: It is no such file.
    """
    try:
        with np.load(source, allow_pickle=False) as file:
            found = dict(file)
        _check(found, dims)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 (what a bit can make of an archive is not foreseen)
        fault = first_line(error)[:_SHOWN] or type(error).__name__
        raise DamagedError(f"{source} is damaged: {fault}. {cure}") from None
    return found


def _check(found: Mapping[str, np.ndarray[Any, Any]], dims: Mapping[str, int]) -> None:
    for key, count in dims.items():
        if key not in found or found[key].ndim != count:
            raise UserError(f"{key} should be an array of {count} dimensions")
