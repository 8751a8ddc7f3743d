"""Every golden vector is opened by a test of this folder."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_folder

HERE = Path(__file__).parent


def words() -> set[str]:
    """All text constants of the numerics tests; a docstring is one, and equals no file's name."""
    trees = (ast.parse(path.read_text()) for path in HERE.glob("*.py"))
    constants = (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}


def test_every_golden_file_is_named_by_a_test(golden: Callable[[str], dict[str, Any]]) -> None:
    folder, named = shared_folder() / "golden", words()
    if not folder.is_dir():
        pytest.skip("no golden vectors beside the project")
    files = [path.relative_to(folder).with_suffix("") for path in sorted(folder.glob("*/*.npz"))]
    assert len(files) > 50
    unopened = [f for f in files if not {f.name, f"{f}.npz"} & named]
    assert unopened == []
    for file in files:
        assert golden(f"{file}.npz"), file
