"""Ray's actors store what a plain process does."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from tests import tiny
from tests.features import BACKBONE, HERE, TEXTONS
from usseg_ray.cluster.feature_actors import ray_features
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Crops, Frame
from usseg_ray.data.manifest import Manifest, load_manifest, split_totals
from usseg_ray.data.shards import write_split
from usseg_ray.features.store.blocks import list_shards
from usseg_ray.features.store.extraction import FeatureRequest, want
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.store import FeatureStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def wanted(scenes: Path) -> FeatureRequest:
    return want(
        str(scenes),
        load_manifest(scenes),
        "train",
        TEXTONS,
        BACKBONE,
        frame=Frame(48),
        crops=Crops("five"),
        shard_bytes=30_000,
    )


def digests(store: FeatureStore, asked: FeatureRequest) -> list[str]:
    shards = list_shards(store.folder.path(asked.entry.key), "tokens").values()
    return [shard.digest for shard in shards]


def test_actors_store_what_a_plain_process_does(
    scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = wanted(scenes)
    plain, pooled = (FeatureStore(FeatureFolder(tmp_path / name)) for name in ("plain", "pooled"))
    plain.obtain(asked, HERE).close()
    with pooled.obtain(asked, ray_features("cpu")) as entry:
        assert entry.manifest.num_shards > 3
        rows = np.arange(entry.manifest.rows)
        assert entry.ids(rows) == tuple(f"train_{row // 5}" for row in rows)
    assert digests(plain, asked) == digests(pooled, asked)
    # Ray's core writes past Python, over a progress bar.
    assert "core_worker.cc" not in capfd.readouterr().err


def test_actors_fill_a_gap(scenes: Path, tmp_path: Path) -> None:
    asked, store = wanted(scenes), FeatureStore(FeatureFolder(tmp_path))
    store.obtain(asked, HERE).close()
    before = digests(store, asked)
    shards = list_shards(store.folder.path(asked.entry.key), "tokens")
    for index in (0, 2):
        shards[index].path.unlink()
    told: list[tuple[int, int]] = []
    store.obtain(asked, ray_features("cpu"), lambda *rows: told.append(rows)).close()
    assert digests(store, asked) == before
    assert len(told) == 2
    assert told[-1] == (185, 185)


def test_a_damaged_image_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    row = replace(tiny.row("train", 0), image=b"no image")
    shards = tuple(write_split(tmp_path / "set", "train", [row]))
    manifest = Manifest(
        name="damaged",
        classes=(),
        ignore_index=255,
        splits=split_totals(shards),
        shards=shards,
        source="a test",
    )
    store = FeatureStore(FeatureFolder(tmp_path / "store"))
    asked = want(str(tmp_path / "set"), manifest, "train", TEXTONS, BACKBONE, frame=Frame(32))
    with pytest.raises(UserError, match="image 'train-00' does not decode"):
        store.obtain(asked, ray_features("cpu"))
    all_cpus_are_free()


def all_cpus_are_free() -> None:
    ends = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < ends:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU", 0) == 4


def test_the_cluster_is_free_again(scenes: Path, tmp_path: Path) -> None:
    FeatureStore(FeatureFolder(tmp_path)).obtain(wanted(scenes), ray_features("cpu")).close()
    all_cpus_are_free()
