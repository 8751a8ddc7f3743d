"""One Ray cluster for the whole session, and a small prepared set."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.ledgers import folder, server, store
from tests.scenes import write

__all__ = ["folder", "server", "store"]


@pytest.fixture(scope="session", autouse=True)
def feature_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A feature store of the tests alone: what is stored does not hang on what was before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USSEG_FEATURES", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="session")
def ray_cluster(feature_store: None) -> Iterator[None]:
    """A local cluster with more logical CPUs than cores, joined by everything under test."""
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of a few synthetic scenes."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    write(root)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder for what somebody has, see `tests.integration.farms`."""
    root = tmp_path / "farm"
    root.mkdir()
    return root
