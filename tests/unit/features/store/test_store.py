"""The store as a whole: killed, damaged, asked for by two at once, and shared."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.conftest import PROJECT
from tests.features import HERE, NUM_SHARDS, ROW_BYTES, everything, obtain, vit, wanted
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Crops
from usseg_ray.data.blocks import Block
from usseg_ray.data.plans import Piece
from usseg_ray.features.backbones import build_backbone
from usseg_ray.features.store.blocks import Shard, list_shards
from usseg_ray.features.store.extraction import FeatureRequest, Features, features_here
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.store import FeatureStore, default_store

SLOW = """
import sys, time
from pathlib import Path
from tests.features import HERE, obtain, wanted
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.store import FeatureStore

def features(asked, pieces):
    for block in HERE(asked, pieces):
        for row in range(len(block["id"])):
            time.sleep(float(sys.argv[3]))
            print("row", flush=True)
            yield {name: column[row : row + 1] for name, column in block.items()}

store = FeatureStore(FeatureFolder(Path(sys.argv[2])), say=lambda text: print(text, flush=True))
print("ready", flush=True)
sys.stdin.readline()
entry = store.obtain(wanted(Path(sys.argv[1])), features)
print(len(entry.read("tokens", range(14))), "rows")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny.write(tmp_path / "set")
    return tmp_path / "set"


def slow(root: Path, folder: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SLOW, str(root), str(folder), str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=PROJECT)


def ready(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def shards_of(folder: Path, root: Path) -> dict[int, Shard]:
    return list_shards(folder / wanted(root).entry.key, "tokens")


def counted(calls: list[int]) -> Features:
    def features(asked: FeatureRequest, pieces: list[Piece]) -> Iterator[Block]:
        calls.append(sum(piece.rows for piece in pieces))
        return HERE(asked, pieces)

    return features


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_killed_extraction_goes_on_at_the_first_missing_shard(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with slow(root, folder, 0.1) as process:
        ready(process)
        while len(shards_of(folder, root)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    before = {s.index: s.path.stat().st_mtime_ns for s in shards_of(folder, root).values()}
    assert 2 <= len(before) < NUM_SHARDS
    # What is there is not served: it is not all.
    store, calls = FeatureStore(FeatureFolder(folder)), list[int]()
    with pytest.raises(UserError, match="not, or no longer, complete"):
        store.open(wanted(root).entry.key, ("tokens",))
    entry = store.obtain(wanted(root), counted(calls))
    assert calls == [14 - 3 * len(before)]
    after = shards_of(folder, root)
    assert {i: after[i].path.stat().st_mtime_ns for i in before} == before
    assert np.array_equal(everything(entry), everything(obtain(tmp_path / "other", wanted(root))))


def test_what_is_stored_is_not_computed_again(root: Path, tmp_path: Path) -> None:
    store, calls = FeatureStore(FeatureFolder(tmp_path / "store")), list[int]()
    for _ in range(2):
        store.obtain(wanted(root), counted(calls)).close()
    store.obtain(wanted(root, crops=Crops("five")), counted(calls)).close()
    assert calls == [14, 14]
    assert len(store.folder.entries()) == 2


def test_two_processes_at_once_compute_it_once(root: Path, tmp_path: Path) -> None:
    with slow(root, tmp_path / "store", 0.05) as one, slow(root, tmp_path / "store", 0.05) as two:
        ready(one, two)
        told = [process.stdout.read() for process in (one, two) if process.stdout]
    assert [text.count("14 rows") for text in told] == [1, 1]
    assert sorted(text.count("row\n") for text in told) == [0, 14]
    assert sum("waiting: another process computes features of tiny/train" in t for t in told) == 1


def test_a_flipped_byte_is_named_and_computed_again(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    store = FeatureStore(FeatureFolder(tmp_path / "store"), say=said.append)
    asked = wanted(root)
    with store.obtain(asked, HERE) as entry:
        whole = everything(entry)
    flip_a_bit(shards_of(tmp_path / "store", root)[3].path)
    with pytest.raises(UserError, match="not, or no longer, complete"):
        store.open(asked.entry.key, ("tokens",))
    calls: list[int] = []
    with store.obtain(asked, counted(calls)) as entry:
        assert np.array_equal(everything(entry), whole)
    assert calls == [3]
    assert said == [f"shard tokens/000003 of {asked.entry.key} is damaged: computed again"]


def test_a_method_that_needs_more_adds_to_an_entry(root: Path, tmp_path: Path) -> None:
    config = vit(tmp_path)
    backbone = build_backbone(config)
    store, here = FeatureStore(FeatureFolder(tmp_path / "store")), features_here(backbone, "cpu")
    asked = wanted(root, config=config, backbone=backbone)
    store.obtain(asked, here).close()
    tokens = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").glob("*/tokens/*.arrow")}
    more = wanted(root, config=config, backbone=backbone, parts=("tokens", "local"))
    with store.obtain(more, here) as entry:
        assert entry.parts == ("tokens", "local")
        assert entry.read("local", np.arange(14)).shape == (14, 9, 2, 2)
    assert {p: p.stat().st_mtime_ns for p in tokens} == tokens
    assert len(store.folder.entries()) == 1
    assert store.folder.entries()[0].complete == ("tokens", "local")


def test_shards_that_are_there_decide_how_they_are_cut(root: Path, tmp_path: Path) -> None:
    folder, calls = tmp_path / "store", list[int]()
    obtain(folder, wanted(root)).close()
    shards_of(folder, root)[1].path.unlink()
    with FeatureStore(FeatureFolder(folder)).obtain(
        wanted(root, shard_bytes=10**9), counted(calls)
    ) as entry:
        assert entry.manifest.images_per_shard == 3
        assert len(everything(entry)) == 14
    assert calls == [3]


def test_what_does_not_fit_is_told_before_anything_is_computed(root: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    store = FeatureStore(FeatureFolder(tmp_path / "store", limit_bytes=100))
    with pytest.raises(UserError, match="do not fit"):
        store.obtain(wanted(root), counted(calls))
    assert calls == []


def test_older_entries_make_room_and_this_is_said(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    obtain(tmp_path / "store", wanted(root)).close()
    (old,) = FeatureFolder(tmp_path / "store").entries()
    folder = FeatureFolder(tmp_path / "store", limit_bytes=5 * 14 * ROW_BYTES)
    store = FeatureStore(folder, say=said.append)
    store.obtain(wanted(root, crops=Crops("five")), HERE).close()
    assert said == [f"removed {old.manifest.key} ({old.manifest.says['data']}) to make room"]


def test_the_decision_knows_size_and_room(root: Path, tmp_path: Path) -> None:
    asked = wanted(root)
    store = FeatureStore(FeatureFolder(tmp_path / "store", limit_bytes=2 * asked.num_bytes))
    assert asked.num_bytes == 14 * ROW_BYTES
    once = store.decide(asked, passes=1)
    assert not once.stored
    assert "features of tiny/train by textons at 32 px: computed in each pass (6.7 kB" in (
        once.sentence
    )
    # The room of a full disk, whose reserve is kept.
    assert not store.decide(asked, passes=2, promised=asked.num_bytes).stored
    assert store.decide(asked, passes=1, promised=asked.num_bytes, mode="cache").stored
    with pytest.raises(UserError, match=r"do not fit the 6\.7 kB"):
        store.decide(asked, passes=9, promised=asked.num_bytes + 1, mode="cache")
    assert not store.decide(asked, passes=9, mode="recompute").stored


def test_a_tenth_of_the_disk_stays_free(root: Path, tmp_path: Path) -> None:
    asked, total = wanted(root), shutil.disk_usage(tmp_path).total
    folder = FeatureFolder(tmp_path / "store")
    assert folder.reserve == pytest.approx(total / 10, abs=1)
    room = folder.room(asked.entry.key)
    store = FeatureStore(folder)
    # Below nothing where less than the reserve is free here; others write to this disk meanwhile.
    assert store.decide(asked, passes=2, promised=room - folder.reserve - 2**30).stored
    assert not store.decide(asked, passes=2, promised=room - folder.reserve + 2**30).stored


def test_the_environment_names_the_shared_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USSEG_FEATURES_SHARED", raising=False)
    assert default_store().shared is None
    monkeypatch.setenv("USSEG_FEATURES_SHARED", str(tmp_path))
    assert default_store().shared is not None
    monkeypatch.setenv("USSEG_FEATURES_SHARED", "nonsense://bucket")
    with pytest.raises(UserError, match="nonsense://bucket: cannot be opened"):
        default_store()


def test_a_place_that_cannot_be_written_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FeatureStore(FeatureFolder(tmp_path / "file" / "store"))
    with pytest.raises(UserError, match=r"cannot be written.*USSEG_FEATURES"):
        store.obtain(wanted(root), HERE)
