import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs as pafs

from tests import tiny
from tests.features import HERE, NUM_SHARDS, everything, wanted
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.data.blocks import Block
from usseg_ray.features.store.extraction import FeatureRequest
from usseg_ray.features.store.folder import FeatureFolder
from usseg_ray.features.store.shared import CLAIM, SharedStore
from usseg_ray.features.store.store import FeatureStore

BEAT_S = 0.2


@pytest.fixture
def asked(tmp_path: Path) -> FeatureRequest:
    tiny.write(tmp_path / "set")
    return wanted(tmp_path / "set")


def machine(tmp_path: Path, name: str, said: list[str] | None = None) -> FeatureStore:
    """A machine's store: a cache of its own, and the place that it shares with others."""
    (tmp_path / "shared").mkdir(exist_ok=True)
    bucket = pafs.SubTreeFileSystem(str(tmp_path / "shared"), pafs.LocalFileSystem())
    say = said.append if said is not None else lambda _: None
    return FeatureStore(FeatureFolder(tmp_path / name), SharedStore(bucket, "a/b", BEAT_S), say)


def refuse(*_: object) -> Iterator[Block]:
    raise AssertionError("computed")


def test_one_machine_computes_and_all_read(tmp_path: Path, asked: FeatureRequest) -> None:
    with machine(tmp_path, "one").obtain(asked, HERE) as entry:
        whole = everything(entry)
    for name in ("two", "three"):
        store = machine(tmp_path, name)
        with store.obtain(asked, refuse) as entry:
            assert np.array_equal(everything(entry), whole)
            assert entry.folder.is_relative_to(tmp_path / name)
    # A trial opens what a sweep obtained elsewhere.
    with machine(tmp_path, "four").open(asked.entry.key, ("tokens",)) as entry:
        assert np.array_equal(everything(entry), whole)
    assert list((tmp_path / "shared").glob(f"**/{CLAIM}")) == []
    assert list((tmp_path / "shared").glob("**/*.unfinished")) == []


def test_what_nobody_computed_cannot_be_opened(tmp_path: Path, asked: FeatureRequest) -> None:
    with pytest.raises(UserError, match="not, or no longer, complete"):
        machine(tmp_path, "one").open(asked.entry.key, ("tokens",))


def test_a_shard_damaged_on_the_way_is_named_and_computed_again(
    tmp_path: Path, asked: FeatureRequest
) -> None:
    machine(tmp_path, "one").obtain(asked, HERE).close()
    shards = sorted((tmp_path / "shared").glob("**/*.arrow"))
    assert len(shards) == NUM_SHARDS
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(bytes(content))
    said: list[str] = []
    rows: list[tuple[int, int]] = []
    store = machine(tmp_path, "two", said)
    with store.obtain(asked, HERE, lambda *told: rows.append(told)) as entry:
        assert len(everything(entry)) == 14
    assert said == [f"shard tokens/000001 of {asked.entry.key} is damaged in a/b: removed"]
    assert rows == [(14, 14)]
    # And the shared place has it again.
    machine(tmp_path, "three").obtain(asked, refuse).close()


def test_a_cache_that_is_full_forgets_and_fetches_again(
    tmp_path: Path, asked: FeatureRequest
) -> None:
    other = wanted(Path(asked.root), frame=Frame(tiny.SIDE, "squash"))
    store = machine(tmp_path, "one")
    for one in (asked, other):
        store.obtain(one, HERE).close()
    limit = store.folder.entries()[0].num_bytes + 100
    small = machine(tmp_path, "small")
    small = FeatureStore(FeatureFolder(small.folder.root, limit), small.shared)
    for one in (asked, other, asked):
        with small.obtain(one, refuse) as entry:
            assert len(everything(entry)) == 14
        assert [kept.manifest.key for kept in small.folder.entries()] == [one.entry.key]


def test_a_claim_is_waited_for(tmp_path: Path) -> None:
    first, second = (machine(tmp_path, name).shared for name in ("one", "two"))
    assert first is not None
    assert second is not None
    events: list[str] = []
    waiting = threading.Event()

    def late() -> None:
        with second.claimed("key", waiting.set):
            events.append("second")

    thread = threading.Thread(target=late)
    with first.claimed("key"):
        thread.start()
        assert waiting.wait(10)
        # Longer than a dead claim would stand.
        thread.join(8 * BEAT_S)
        assert thread.is_alive()
        events.append("first")
    thread.join(10)
    assert events == ["first", "second"]


def test_a_claim_that_stands_still_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "shared" / "a" / "b" / "key" / CLAIM
    path.parent.mkdir(parents=True)
    path.write_text('["dead", 7]')
    store, waited = machine(tmp_path, "one").shared, list[bool]()
    assert store is not None
    with store.claimed("key", lambda: waited.append(True)):
        assert "dead" not in path.read_text()
    assert waited == [True]
    assert not path.exists()


def test_a_shared_place_that_fails_is_told_and_what_was_computed_is_kept(
    tmp_path: Path, asked: FeatureRequest
) -> None:
    store = machine(tmp_path, "one")
    (tmp_path / "shared" / "a").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot be (written|copied)"):
        store.obtain(asked, HERE)
    (tmp_path / "shared" / "a").unlink()
    store.obtain(asked, HERE).close()
    assert len(list((tmp_path / "shared").glob("**/*.arrow"))) == NUM_SHARDS
