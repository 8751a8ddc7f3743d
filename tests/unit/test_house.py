"""The package keeps its shape: few layers, rooms that are no halls, one meaning for a name."""

import ast
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "usseg_ray"
MOST_LAYERS, MOST_MODULES = 10, 20
# A name that stands for the same wherever it does: commands, what Python offers and has a room
# for, and the last step of output formats that have one file for all images.
SHARED = {"main", "export", "fit", "prepare", "gather"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def defined(*kinds: type[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]) -> Counter[str]:
    """Counts in how many modules each public name of such a kind is defined."""
    trees = (ast.parse(path.read_text("utf-8")) for path in modules())
    named = (node.name for tree in trees for node in tree.body if isinstance(node, kinds))
    return Counter(name for name in named if not name.startswith("_"))


def test_there_are_few_layers() -> None:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    assert layers[-1] == "usseg_ray.core"
    assert len(layers) <= MOST_LAYERS
    named = {room.strip() for layer in layers for room in layer.split("|")}
    there = {path for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms = {f"usseg_ray.{path.stem}" for path in there if path.stem not in ("__init__", "py")}
    assert named == {room for room in rooms if not room.endswith("__pycache__")}


def test_the_top_level_holds_commands() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "api"}
    assert files
    for name in files:
        text = (PACKAGE / f"{name}.py").read_text("utf-8")
        assert "make_app()" in text, f"{name}.py is no command"
        assert text.count("\n") < 150, f"{name}.py has more than options"


@pytest.mark.parametrize(
    "folder", [path for path in [PACKAGE, *PACKAGE.rglob("*")] if (path / "__init__.py").exists()]
)
def test_a_folder_has_few_modules(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


def test_a_type_name_has_one_meaning() -> None:
    found = defined(ast.ClassDef)
    assert "Config" in found
    assert [name for name, times in found.items() if times > 1] == []


def test_so_has_a_public_function() -> None:
    found = defined(ast.FunctionDef, ast.AsyncFunctionDef)
    assert {name for name, times in found.items() if times > 1} == SHARED
