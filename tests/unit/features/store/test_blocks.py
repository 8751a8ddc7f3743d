import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests import tiny
from tests.features import IMAGES_PER_SHARD, NUM_SHARDS, obtain, wanted
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import sweep_unfinished
from usseg_ray.features.store.blocks import (
    drop_damaged,
    list_shards,
    load_entry_manifest,
    missing_shards,
    parse_name,
    save_entry_manifest,
    write_feature_shard,
)
from usseg_ray.features.store.entry import FeatureEntry
from usseg_ray.features.store.recipe import Part


@pytest.fixture
def entry(tmp_path: Path) -> FeatureEntry:
    """Features of the tiny set's 14 training images, in five shards."""
    tiny.write(tmp_path / "set")
    return obtain(tmp_path / "store", wanted(tmp_path / "set"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_shard_is_a_plain_arrow_file_named_by_its_hash(entry: FeatureEntry) -> None:
    shards = list_shards(entry.folder, "tokens")
    assert list(shards) == list(range(NUM_SHARDS))
    for shard in shards.values():
        assert hashlib.sha256(shard.path.read_bytes()).hexdigest() == shard.digest
    table = pa.ipc.open_file(shards[0].path).read_all()
    assert table.column("id").to_pylist() == ["train-00", "train-01", "train-02"]
    assert table.schema.field("rows").type == pa.list_(pa.float16(), 15 * 16)


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    one, two = (write_feature_shard(tmp_path / name, "local", 0, ["a", "b"], rows) for name in "ab")
    assert one.digest == two.digest
    assert list(tmp_path.glob("**/*.unfinished")) == []


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with (
        np.errstate(over="ignore"),
        pytest.raises(UserError, match="'a' and those after it do not fit float16"),
    ):
        write_feature_shard(tmp_path, "tokens", 0, ["a"], np.full((1, 1), 1e6).astype(np.float16))
    assert list(tmp_path.glob("**/*.arrow")) == []


def test_what_is_missing_is_listed_by_part(entry: FeatureEntry) -> None:
    parts: tuple[Part, ...] = ("tokens", "local")
    list_shards(entry.folder, "tokens")[3].path.unlink()
    found = missing_shards(entry.folder, entry.manifest, parts)
    assert found == {0: ("local",), 1: ("local",), 2: ("local",), 3: parts, 4: ("local",)}


@pytest.mark.parametrize("thorough", [False, True])
def test_a_flipped_bit_is_found_and_named(entry: FeatureEntry, thorough: bool) -> None:
    shards = list_shards(entry.folder, "tokens")
    assert drop_damaged(entry.folder, shards.values(), thorough=thorough) == []
    flip_a_bit(shards[1].path)
    assert drop_damaged(entry.folder, shards.values(), thorough=thorough, keep=True) == [shards[1]]
    assert shards[1].path.exists()
    (damaged,) = drop_damaged(entry.folder, shards.values(), thorough=thorough)
    assert damaged.name == "tokens/000001"
    assert list(list_shards(entry.folder, "tokens")) == [0, 2, 3, 4]


def test_a_torn_shard_is_damaged(entry: FeatureEntry) -> None:
    shard = list_shards(entry.folder, "tokens")[0]
    with shard.path.open("r+b") as file:
        file.truncate(100)
    assert drop_damaged(entry.folder, [shard]) == [shard]


def test_shards_that_did_not_change_are_read_once(
    entry: FeatureEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = list(list_shards(entry.folder, "tokens").values())
    drop_damaged(entry.folder, shards)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert drop_damaged(entry.folder, shards) == []
    with pytest.raises(AssertionError, match="read again"):
        drop_damaged(entry.folder, shards, thorough=True)


def test_half_written_files_are_no_shards(entry: FeatureEntry) -> None:
    stray = entry.folder / "tokens" / ".1234.unfinished"
    stray.write_bytes(b"half")
    assert len(list_shards(entry.folder, "tokens")) == NUM_SHARDS
    sweep_unfinished(entry.folder)
    assert not stray.exists()
    assert len(list_shards(entry.folder, "tokens")) == NUM_SHARDS
    assert parse_name("000001.arrow") is None


def test_a_manifest_comes_back(entry: FeatureEntry) -> None:
    assert load_entry_manifest(entry.folder) == entry.manifest
    assert load_entry_manifest(entry.folder / "nowhere") is None
    assert entry.manifest.images_per_shard == IMAGES_PER_SHARD


def test_a_manifest_that_cannot_be_used_is_told(entry: FeatureEntry) -> None:
    path = entry.folder / "manifest.json"
    path.write_text(path.read_text().replace('"images": 14', '"images": 0'))
    with pytest.raises(UserError, match=r"images: .*Remove the folder"):
        load_entry_manifest(entry.folder)
    save_entry_manifest(entry.manifest, entry.folder)
    assert load_entry_manifest(entry.folder) == entry.manifest
