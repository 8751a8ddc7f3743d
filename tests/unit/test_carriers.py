"""What travels from a command to a worker is typed: settings are attributes, not dotted keys."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from tests.conftest import PROJECT
from usseg_ray import methods
from usseg_ray.core.config import BackboneConfig, Config
from usseg_ray.trials.job import Job

PACKAGE = PROJECT / "usseg_ray"
GROUPS = {name for name, field in Config.model_fields.items() if field.annotation is not int}
# Where settings are text by nature: what is drawn, what is published, what is kept.
TEXT = {
    "sweeps/space.py",
    "sweeps/defaults.py",
    "sweeps/presets.py",
    "trials/trial.py",  # trial.json
    "report/read.py",  # MLflow's params
    "report/details.py",
}


def looked_up(tree: ast.Module) -> Iterator[tuple[int, object]]:
    """Finds constants that something is looked up by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield node.lineno, node.slice.value
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            first = node.args[0]
            if node.func.attr == "get" and isinstance(first, ast.Constant):
                yield node.lineno, first.value


def dotted(text: str) -> list[tuple[int, object]]:
    return [
        (line, key)
        for line, key in looked_up(ast.parse(text))
        if isinstance(key, str) and "." in key and key.split(".")[0] in GROUPS
    ]


def test_a_dotted_key_is_seen() -> None:
    assert dotted('a["data.name"]\nb.get("method.lr", 0)\nc["scores.json"]') == [
        (1, "data.name"),
        (2, "method.lr"),
    ]


def test_settings_are_not_looked_up_by_dotted_keys() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert files.keys() >= TEXT
    found = {
        name: keys
        for name, path in files.items()
        if name not in TEXT and (keys := dotted(path.read_text()))
    }
    assert found == {}


def carried(kind: Any, seen: set[Any]) -> Iterator[Any]:
    """Lists the types that a type's fields hold, and those that they hold in turn."""
    if kind in seen:
        return
    seen.add(kind)
    yield kind
    inner = list(get_args(kind))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        inner += [hints[field.name] for field in fields(kind)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        inner += [field.annotation for field in kind.model_fields.values()]
    for one in inner:
        yield from carried(one, seen)


def test_a_job_carries_no_mapping_of_keys() -> None:
    configs = [Config[method.Config] for method in methods.METHODS]
    kinds = {kind for one in (Job, *configs) for kind in carried(one, set())}
    assert {Job, BackboneConfig, *configs} <= kinds
    mappings = [kind for kind in kinds if get_origin(kind) in (dict, Mapping)]
    # What timm's own constructors take has no fields of ours.
    allowed = BackboneConfig.model_fields["timm_args"].annotation
    assert [kind for kind in mappings if kind != allowed] == []
