"""Shards are checked before they are believed, and read once as long as nobody writes them."""

import os
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from tests.sharded import prepared
from usseg_ray.core.config import DataConfig
from usseg_ray.core.errors import UserError
from usseg_ray.data import shards, verified
from usseg_ray.data.library import SYNTHETIC, open_data
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.verified import verify_once


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return prepared(tmp_path / "set")


def flip(path: Path, *, later: bool) -> None:
    """Flips a bit of a file, which lies as old as before or a second younger."""
    before, content = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before, before + 10**9 * later))


def test_a_flipped_bit_is_found_before_a_shard_is_used(tmp_path: Path, manifest: Manifest) -> None:
    flip(tmp_path / "set" / manifest.shards[1].path, later=False)
    name = Path(manifest.shards[1].path).name
    for _ in range(2):  # what is wrong is not remembered as right
        with pytest.raises(UserError, match=rf"{name}: the shard is damaged .*--overwrite\."):
            verify_once(manifest, str(tmp_path / "set"), tmp_path / "memory")


def test_what_was_right_is_read_once(tmp_path: Path, manifest: Manifest) -> None:
    verify_once(manifest, str(tmp_path / "set"), tmp_path / "memory")
    shard = tmp_path / "set" / manifest.shards[0].path
    # Size and time are the same, so nobody looks: the second sweep costs no reading.
    flip(shard, later=False)
    verify_once(manifest, str(tmp_path / "set"), tmp_path / "memory")
    flip(shard, later=False)
    flip(shard, later=True)
    with pytest.raises(UserError, match="the shard is damaged"):
        verify_once(manifest, str(tmp_path / "set"), tmp_path / "memory")


def test_a_memory_that_is_damaged_or_cannot_be_kept_costs_a_reading(
    tmp_path: Path, manifest: Manifest
) -> None:
    memory = tmp_path / "memory"
    verify_once(manifest, str(tmp_path / "set"), memory)
    (note,) = memory.iterdir()
    note.write_text("[]")
    flip(tmp_path / "set" / manifest.shards[0].path, later=False)
    with pytest.raises(UserError, match="damaged"):
        verify_once(manifest, str(tmp_path / "set"), memory)
    flip(tmp_path / "set" / manifest.shards[0].path, later=False)
    (tmp_path / "file").write_text("")
    verify_once(manifest, str(tmp_path / "set"), tmp_path / "file")


def test_of_a_bucket_sizes_are_compared(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    for module in (verified, shards):
        monkeypatch.setattr(module, "resolve", lambda _: (bucket, "set"))
    verify_once(manifest, "s3://bucket/set", tmp_path / "memory")
    shard = tmp_path / "set" / manifest.shards[0].path
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged \(\d+ bytes, the manifest says \d+\)"):
        verify_once(manifest, "s3://bucket/set", tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_sweep_checks_its_set_as_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "data"))
    found = prepared(tmp_path / "set")
    config = DataConfig(name=str(tmp_path / "set"), train_split=found.shards[0].split)
    open_data(config)
    flip(tmp_path / "set" / found.shards[0].path, later=True)
    open_data(config, make=False)
    with pytest.raises(UserError, match="the shard is damaged"):
        open_data(config)


def test_the_built_in_set_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path))
    monkeypatch.setattr("usseg_ray.data.synthetic.SPLITS", {"train": 2, "val": 1, "test": 1})
    root, manifest = open_data(DataConfig(name=SYNTHETIC))
    flip(Path(root) / manifest.shards[0].path, later=True)
    with pytest.raises(UserError, match=rf"damaged .* Remove {root}: it is made again\."):
        open_data(DataConfig(name=SYNTHETIC))
