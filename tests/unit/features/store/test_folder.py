import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import PROJECT
from tests.features import ROW_BYTES, everything, obtain, wanted
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.features.store.folder import EntryState, FeatureFolder, default_folder

HOLD = """
import sys
from pathlib import Path
from usseg_ray.features.store.folder import FeatureFolder

entry = FeatureFolder(Path(sys.argv[1])).open(sys.argv[2], ("tokens",))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three entries, the framings' first used least recently."""
    tiny.write(tmp_path / "set")
    folder = tmp_path / "store"
    for age, key in enumerate(keys(tmp_path)):
        frame = FRAMES[age]
        obtain(folder, wanted(tmp_path / "set", frame=frame)).close()
        os.utime(folder / ".locks" / f"{key}.use", (1000 + age, 1000 + age))
    return folder


FRAMES = (Frame(32), Frame(32, "squash"), Frame(32, filter="nearest"))


def keys(tmp_path: Path) -> list[str]:
    return [wanted(tmp_path / "set", frame=frame).entry.key for frame in FRAMES]


def sizes(folder: FeatureFolder) -> dict[str, int]:
    return {kept.manifest.key: kept.num_bytes for kept in folder.entries()}


@contextmanager
def used_elsewhere(store: Path, key: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has an entry open."""
    command = [sys.executable, "-c", HOLD, str(store), key]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=PROJECT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_entries_are_listed_by_their_last_use(store: Path, tmp_path: Path) -> None:
    folder = FeatureFolder(store)
    first, second, third = keys(tmp_path)
    assert [kept.manifest.key for kept in folder.entries()] == [third, second, first]
    entry = folder.open(first, ("tokens",))
    assert entry is not None
    with entry:
        newest, *others = folder.entries()
        assert newest.manifest.key == first
        assert newest.in_use
        assert not any(kept.in_use for kept in others)
    newest = folder.entries()[0]
    assert (newest.in_use, newest.complete, newest.partial) == (False, ("tokens",), ())
    assert newest.num_bytes > 14 * ROW_BYTES


def test_an_entry_that_lacks_a_shard_is_not_opened(store: Path, tmp_path: Path) -> None:
    folder, key = FeatureFolder(store), keys(tmp_path)[0]
    assert folder.open(key, ("tokens", "local")) is None
    assert folder.open("nowhere", ("tokens",)) is None
    next((store / key / "tokens").iterdir()).unlink()
    assert folder.open(key, ("tokens",)) is None
    (kept,) = (kept for kept in folder.entries() if kept.manifest.key == key)
    assert (kept.complete, kept.partial, kept.in_use) == ((), ("tokens",), False)


def test_the_least_recently_used_entries_make_room(store: Path, tmp_path: Path) -> None:
    total = sum(sizes(FeatureFolder(store)).values())
    first, second, third = keys(tmp_path)
    folder = FeatureFolder(store, limit_bytes=total + 100)
    assert folder.make_room("new", 100) == []
    assert gone(folder.make_room("new", 101)) == [first]
    assert gone(folder.make_room("new", total - 200)) == [second, third]
    assert folder.entries() == []


def gone(removed: list[EntryState]) -> list[str]:
    return [kept.manifest.key for kept in removed]


def test_room_is_not_made_for_what_can_never_fit(store: Path) -> None:
    folder = FeatureFolder(store, limit_bytes=1000)
    with pytest.raises(UserError, match=r"do not fit.*USSEG_FEATURES_GB"):
        folder.make_room("new", 1001)
    assert len(folder.entries()) == 3


def test_an_entry_counts_what_it_has_already(store: Path, tmp_path: Path) -> None:
    own = keys(tmp_path)[0]
    total = sum(sizes(FeatureFolder(store)).values())
    folder = FeatureFolder(store, limit_bytes=total)
    assert folder.make_room(own, sizes(folder)[own]) == []
    assert len(folder.entries()) == 3


def test_an_entry_in_use_is_never_removed(store: Path, tmp_path: Path) -> None:
    first, second, third = keys(tmp_path)
    with used_elsewhere(store, first) as process:
        used = sizes(FeatureFolder(store))[first]
        folder = FeatureFolder(store, limit_bytes=used + 100)
        assert folder.room("new") == 100
        assert not folder.remove(first)
        with pytest.raises(UserError, match="do not fit"):
            folder.make_room("new", 101)
        assert gone(folder.make_room("new", 100)) == [second, third]
        # Here, too, and together with the other process.
        entry = folder.open(first, ("tokens",))
        assert entry is not None
        assert len(everything(entry)) == 14
        process.kill()
        process.wait()
        assert not folder.remove(first)
        entry.close()
        # What a killed process held is free.
        assert folder.remove(first)
    assert folder.entries() == []
    assert [path.name for path in store.iterdir()] == [".locks"]


def test_rows_are_there_although_the_entry_is_opened_while_others_go(
    store: Path, tmp_path: Path
) -> None:
    first, *others = keys(tmp_path)
    folder = FeatureFolder(store)
    entry = folder.open(first, ("tokens",))
    assert entry is not None
    before = everything(entry)
    assert all(folder.remove(key) for key in others)
    assert (everything(entry) == before).all()


def test_one_writes_while_others_wait(tmp_path: Path) -> None:
    folder, events = FeatureFolder(tmp_path), list[str]()
    first_in, waited = threading.Event(), threading.Event()

    def first() -> None:
        with folder.building("key"):
            first_in.set()
            assert waited.wait(10)
            events.append("first")

    def second() -> None:
        with folder.building("key", waited.set):
            events.append("second")

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    assert first_in.wait(10)
    two.start()
    one.join()
    two.join()
    assert events == ["first", "second"]


def test_what_was_being_removed_goes_away(tmp_path: Path) -> None:
    (tmp_path / ".removed-1" / "tokens").mkdir(parents=True)
    folder = FeatureFolder(tmp_path)
    assert folder.entries() == []
    folder.clear_removed()
    assert list(tmp_path.iterdir()) == []


def test_the_environment_chooses_folder_and_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USSEG_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("USSEG_FEATURES", raising=False)
    monkeypatch.delenv("USSEG_FEATURES_GB", raising=False)
    assert default_folder().root == tmp_path / "data" / "feature-store"
    assert default_folder().limit_bytes > 0
    monkeypatch.setenv("USSEG_FEATURES", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("USSEG_FEATURES_GB", "1.5")
    assert default_folder().root == tmp_path / "elsewhere"
    assert default_folder().limit_bytes == 1_500_000_000
    monkeypatch.setenv("USSEG_FEATURES_GB", "much")
    with pytest.raises(UserError, match="USSEG_FEATURES_GB=much: not a number"):
        default_folder()


def test_an_entry_that_says_nonsense_does_not_hide_the_others(store: Path, tmp_path: Path) -> None:
    first, *others = keys(tmp_path)
    (store / first / "manifest.json").write_text("{}")
    folder = FeatureFolder(store)
    assert {kept.manifest.key for kept in folder.entries()} == set(others)
    with pytest.raises(UserError, match=f"Remove the folder .*{first}"):
        folder.open(first, ("tokens",))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = FeatureFolder(tmp_path / "file" / "store")
    with pytest.raises(UserError, match=r"cannot be written.*USSEG_FEATURES"), folder.building("k"):
        pytest.fail("built")
