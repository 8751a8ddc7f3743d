"""The method in docs/adding_a_method.md is what it says: it runs and learns as it stands."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from tests import tiny
from tests.contract.cases import check_defaults
from usseg_ray.core.config import build_config
from usseg_ray.data.manifest import Manifest
from usseg_ray.engine.context import PlainContext
from usseg_ray.engine.open_set import OpenSet
from usseg_ray.engine.run import assemble
from usseg_ray.methods.base import Method
from usseg_ray.sweeps.space import check_space, load_space

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding_a_method.md"
Set = tuple[str, Manifest]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def example() -> type[Method]:
    for room, code in zip(("settings", "methods"), blocks("python"), strict=True):
        module = ModuleType(f"usseg_ray.{room}.online")
        sys.modules[module.__name__] = module
        exec(compile(code, str(DOCUMENT), "exec"), module.__dict__)
    found: type[Method] = module.__dict__["Online"]
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Set:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


def fitted(method: type[Method], data: Set, **settings: int) -> PlainContext:
    changed = {f"train.{key}": value for key, value in settings.items()}
    config = build_config(method.Config, [tiny.SETTINGS, {"method.lr": 0.05}, changed])
    context = PlainContext(torch.device("cpu"), [])
    assemble(config, method, OpenSet(*data), context).fit()
    return context


def test_it_has_the_forty_lines_that_are_promised() -> None:
    bodies = [code.partition("\nclass ")[2].splitlines() for code in blocks("python")]
    assert len([line for body in bodies for line in body if line.strip()]) <= 40


def test_it_learns_and_is_scored(example: type[Method], prepared: Set) -> None:
    history = fitted(example, prepared, epochs=8).history
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["unsup_miou"] > 50


def test_its_schedule_and_its_defaults_are_valid(example: type[Method]) -> None:
    assert "defaults" in vars(example)
    check_defaults(example)


def test_its_space_is_valid(example: type[Method], tmp_path: Path) -> None:
    file = tmp_path / "online.yaml"
    (space,) = blocks("yaml")
    file.write_text(space)
    assert set(yaml.safe_load(space)) == {"fixed", "space"}
    check_space(load_space(file), example.Config, [])
