"""Settings travel as a `Config`: who reads them by dotted keys, and what a job carries."""

import ast
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
import pytest

from tests.conftest import PROJECT
from usseg_ray import methods
from usseg_ray.core.config import Config
from usseg_ray.trials.job import Job

PACKAGE = PROJECT / "usseg_ray"
BY_DOTTED_KEY = (
    "tracking",
    "report",  # reads params of MLflow
    "sweeps/space.py",
    "sweeps/presets.py",
    "sweeps/published/preset.py",
    "sweeps/defaults.py",
    "trials/trial.py",  # the record on the disk
    "models/folder.py",  # model.yaml, and the settings in a run's record
    "models/official/layouts.py",  # checkpoints of others, by their keys
)
PREFIXES = tuple(f"{group}." for group in Config.model_fields)


def is_dotted(node: ast.expr, named: set[str]) -> bool:
    """Says whether an expression is a dotted key: a literal, an f-string, or a constant's name."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value.startswith(PREFIXES)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name in named


def constants(trees: list[ast.Module]) -> set[str]:
    """Names the constants of modules that are dotted keys."""
    return {
        target.id
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and is_dotted(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def looked_up(tree: ast.Module, named: set[str]) -> list[int]:
    """Lists the lines that look something up by a dotted key."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_dotted(node.slice, named):
            found.append(node.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            asked = node.func.attr in ("get", "pop", "setdefault")
            found += [node.lineno] if asked and is_dotted(node.args[0], named) else []
    return found


def test_settings_are_not_looked_up_by_dotted_keys() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    trees = {path: ast.parse(path.read_text("utf-8")) for path in paths}
    named = constants(list(trees.values()))
    assert {"WORKERS", "BATCH_SIZE"} <= named
    found = {
        path.relative_to(PACKAGE).as_posix(): lines
        for path, tree in trees.items()
        if (lines := looked_up(tree, named))
    }
    assert {
        name: lines for name, lines in found.items() if not name.startswith(BY_DOTTED_KEY)
    } == {}
    # The search sees those who may.
    assert {"trials/trial.py", "report/read.py"} <= set(found)


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("a = x['data.name']", [1]),
        ("\na = x.get(f'train.{name}')", [2]),
        ("a = x[WORKERS]", [1]),
        ("a = x[job.WORKERS]", [1]),
        ("a = {'data.name': 1}\nb = x['test.miou']", []),
    ],
)
def test_what_counts_as_a_look_up(code: str, lines: list[int]) -> None:
    assert looked_up(ast.parse(code), {"WORKERS"}) == lines


def fields_of(kind: type) -> dict[str, Any]:
    if issubclass(kind, pydantic.BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def carried(kind: Any, path: str = "job") -> Iterator[tuple[str, Any]]:
    """Yields every type below a field, with where it is."""
    yield path, kind
    for part in typing.get_args(kind):
        yield from carried(part, path)
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        for name, annotation in fields_of(kind).items():
            yield from carried(annotation, f"{path}.{name}")


def open_mappings(kind: Any) -> list[str]:
    """Says where a type carries mappings of names to anything."""
    return [
        path
        for path, one in carried(kind)
        if isinstance(origin := typing.get_origin(one) or one, type)
        and issubclass(origin, Mapping)
        and (not typing.get_args(one) or Any in typing.get_args(one))
    ]


def test_a_job_carries_no_mapping_of_dotted_keys() -> None:
    paths = {path for path, _ in carried(Job)}
    assert {"job.config.data.train_split", "job.placement.stored.view.frame"} <= paths
    assert open_mappings(Job) == []


@pytest.mark.parametrize("method", methods.METHODS, ids=lambda method: method.name)
def test_nor_do_the_settings_of_methods(method: type[methods.Method]) -> None:
    assert open_mappings(method.Config) == []


def test_an_open_mapping_is_found() -> None:
    @dataclasses.dataclass
    class Loose:
        settings: tuple[dict[str, Any], ...]
        named: dict[str, int]

    assert open_mappings(Loose) == ["job.settings"]
