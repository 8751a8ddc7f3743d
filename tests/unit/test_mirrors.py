"""Every module has a test beside its place, or a named one elsewhere for a reason."""

import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE, UNIT = PROJECT / "usseg_ray", PROJECT / "tests" / "unit"
# Where the test of a module lies that has none beside its place: what the ones of Ray do is done by
# Ray alone, and all published sets are held to the same.
ELSEWHERE = {
    "bench.io": "tests/integration/test_bench.py",
    "bench.stream": "tests/integration/test_bench_stream.py",
    "cluster.ray_stream": "tests/integration/test_pipeline.py",
    "cluster.worker_pool": "tests/integration/test_predict.py",
    "data.containers": "tests/unit/data/test_decode.py",
    "engine.context": "tests/unit/engine/test_run.py",
    "engine.open_set": "tests/unit/engine/test_baselines.py",
    "prepare.__main__": "tests/unit/prepare/sets/test_download.py",
    "prepare.entries": "tests/unit/prepare/test_layouts.py",
    "prepare.lists": "tests/unit/prepare/test_layouts.py",
    "prepare.pairing": "tests/unit/prepare/test_layouts.py",
    "prepare.passed": "tests/unit/prepare/test_layouts.py",
    "prepare.patterns": "tests/unit/prepare/test_layouts.py",
    "prepare.write": "tests/integration/test_prepare.py",
    "serve.pool": "tests/integration/test_serve.py",
    "sweeps.own.fitting": "tests/integration/test_fit.py",
    "sweeps.own.results": "tests/integration/test_fit.py",
    "sweeps.sweep": "tests/integration/test_sweep.py",
    "trials.tasks": "tests/integration/test_sweep.py",
}
# Of the checkout, or of several modules alike.
OF_SEVERAL = {
    "test_carriers.py",
    "test_deploy.py",
    "test_fuzz.py",
    "test_house.py",
    "test_imports.py",
    "test_mirrors.py",
    "test_path_to_loss.py",
    "test_repository.py",
    "test_run_files.py",
}


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
    # By itself, or through what its package offers.
    package = module.rpartition(".")[0]
    assert re.search(rf"usseg_ray\.({module} import|{package} import|{package}\.\w+ import)", text)


def test_nearly_all_lie_beside_their_module() -> None:
    beside = [module for module in MODULES if place_of(module).exists()]
    assert len(beside) / len(MODULES) > 0.85


def test_no_test_lies_beside_nothing() -> None:
    lies = {path for path in UNIT.rglob("test_*.py") if path.name not in OF_SEVERAL}
    assert lies - {place_of(module) for module in MODULES} == set()
