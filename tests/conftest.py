"""What every suite shares: shapes checked at run time, and the reference material's place."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Small tensors on many threads spend their time on the threads.
torch.set_num_threads(1)
# How long an example takes says something about the machine alone.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PROJECT = Path(__file__).resolve().parents[1]

# Layers L0 to L3 state tensor shapes in their signatures; under test each call is checked.
install_import_hook(
    [
        "usseg_ray.core.types",
        "usseg_ray.core.distributed",
        "usseg_ray.features.backbones",
        "usseg_ray.features.textons",
        "usseg_ray.scoring.metrics",
        "usseg_ray.ops",
        "usseg_ray.methods",
        "usseg_ray.scoring.evaluation",
        "usseg_ray.data.decode",
        "usseg_ray.data.synthetic",
        "usseg_ray.data.transforms",
    ],
    "beartype.beartype",
)


def pytest_configure() -> None:
    """Has Ctrl-C heard, which what a shell starts in the background ignores, with its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def shared_folder() -> Path:
    """Returns where the reference material lies, whether or not it does."""
    return Path(os.environ.get("USSEG_SHARED", PROJECT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material; skips where it is absent."""
    folder = shared_folder()
    if not folder.exists():
        pytest.skip(f"reference material not found at {folder} (USSEG_SHARED)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts slow tests first: of several processes none is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    """Where the reference material lies, a golden or real-data test that skips is a failure."""
    folders = (PROJECT / "tests" / "numerics", PROJECT / "tests" / "realdata")
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and any(map(path.is_relative_to, folders)) and shared_folder().exists():
        report.outcome = "failed"
        report.longrepr = f"skipped, although {shared_folder()} is there: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report, collector.path)
    return report
