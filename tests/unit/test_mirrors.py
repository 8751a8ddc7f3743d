"""Every module has a test at its place in tests/unit, whatever is asserted of it elsewhere."""

from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE, UNIT = PROJECT / "usseg_ray", PROJECT / "tests" / "unit"
# Of the checkout, or of several modules alike.
OF_SEVERAL = {
    "test_carriers.py",
    "test_deploy.py",
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
    place = place_of(module)
    assert place.exists(), place.relative_to(PROJECT)


def test_no_test_lies_beside_nothing() -> None:
    lies = {path for path in UNIT.rglob("test_*.py") if path.name not in OF_SEVERAL}
    assert lies - {place_of(module) for module in MODULES} == set()
