"""One Ray cluster for the whole session, and a small prepared set."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.integration.ledgers import free_port, lay_store, serving
from usseg_ray.data import synthetic
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.shards import Row, write_split

COUNTS = {"train": 37, "val": 13, "test": 11}


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
    """A prepared set of a few synthetic scenes, with odd row counts in every split."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    shards = tuple(
        shard
        for split, count in COUNTS.items()
        for shard in write_split(root, split, _rows(split, count), rows_per_shard=16)
    )
    save_manifest(
        Manifest(
            name="scenes",
            classes=synthetic.CLASSES,
            ignore_index=synthetic.IGNORE_INDEX,
            palette=synthetic.PALETTE,
            splits=split_totals(shards),
            shards=shards,
            source="a test",
        ),
        root,
    )
    return root


def _rows(split: str, count: int) -> Iterator[Row]:
    for index in range(count):
        image, label = synthetic.scene(7, split, index)
        pixels, classes = synthetic.encode(image, label)
        yield Row(f"{split}_{index}", pixels, classes, *label.shape)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no store named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """An empty store in the working directory."""
    lay_store(folder / "mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one real tracking server."""
    with serving(tmp_path_factory.mktemp("server"), free_port()) as address:
        yield address
