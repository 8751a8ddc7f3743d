"""Every module has a test beside its place, or a named one elsewhere for a reason."""

from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE, UNIT = PROJECT / "usseg_ray", PROJECT / "tests" / "unit"
# Where the test of a module lies that has none beside its place: what the ones of Ray do is done by
# Ray alone, and a method's numbers are its test.
ELSEWHERE = {
    "bench.io": "tests/integration/test_bench.py",
    "bench.stream": "tests/integration/test_bench_stream.py",
    "cluster.ray_stream": "tests/integration/test_pipeline.py",
    "engine.checkpoint": "tests/unit/engine/test_run.py",
    "methods.base": "tests/contract/test_methods.py",
    "methods.colour": "tests/numerics/test_colour.py",
    "methods.kmeans": "tests/numerics/test_kmeans.py",
    "methods.position": "tests/numerics/test_position.py",
    "prepare.__main__": "tests/unit/prepare/test_download.py",
    "prepare.write": "tests/integration/test_prepare.py",
    "sweeps.sweep": "tests/integration/test_sweep.py",
    "trials.tasks": "tests/integration/test_sweep.py",
}
# Of the checkout rather than of a module.
OF_THE_WHOLE = {"test_deploy.py", "test_imports.py", "test_mirrors.py", "test_repository.py"}


def place_of(module: str) -> Path:
    """Says where a module's test lies."""
    *packages, name = module.split(".")
    return UNIT.joinpath(*packages, f"test_{name.strip('_')}.py")


MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_its_test(module: str) -> None:
    beside = place_of(module)
    assert beside.exists() or module in ELSEWHERE, beside.relative_to(PROJECT)


@pytest.mark.parametrize("module", ELSEWHERE)
def test_a_test_elsewhere_is_of_the_module(module: str) -> None:
    assert module in MODULES
    text = (PROJECT / ELSEWHERE[module]).read_text("utf-8")
    *packages, name = module.split(".")
    named = (f"usseg_ray.{module} import", f"from usseg_ray.{'.'.join(packages)} import {name}")
    assert any(one in text for one in named)


def test_nearly_all_lie_beside_their_module() -> None:
    beside = [module for module in MODULES if place_of(module).exists()]
    assert len(beside) / len(MODULES) > 0.9


def test_no_test_lies_beside_nothing() -> None:
    lies = {path for path in UNIT.rglob("test_*.py") if path.name not in OF_THE_WHOLE}
    assert lies - {place_of(module) for module in MODULES} == set()
