"""Finds the golden vectors; where their folder exists, nothing here can skip."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import shared_folder

Vectors = dict[str, Any]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Vectors]:
    """Loads a file such as `acseg/loss_paper.npz` as a dict of arrays."""
    named = os.environ.get("USSEG_GOLDEN")
    folder = Path(named) if named else shared_folder() / "golden"
    if not named and not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}; set USSEG_SHARED or USSEG_GOLDEN")

    def load(name: str) -> Vectors:
        with np.load(folder / name) as arrays:
            return dict(arrays)

    return load
