import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.features import NUM_SHARDS, obtain, wanted
from usseg_ray.core import cli
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import Frame
from usseg_ray.features import __main__
from usseg_ray.features.store.blocks import list_shards
from usseg_ray.features.store.folder import FeatureFolder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two entries; the first was used ten days ago."""
    tiny.write(tmp_path / "set")
    folder = tmp_path / "store"
    for frame in (Frame(32), Frame(32, "squash")):
        obtain(folder, wanted(tmp_path / "set", frame=frame)).close()
    then = time.time() - 10 * __main__.DAY_S
    os.utime(folder / ".locks" / f"{wanted(tmp_path / 'set').entry.key}.use", (then, then))
    monkeypatch.setenv("USSEG_FEATURES", str(folder))
    monkeypatch.setattr(cli.console, "width", 300)
    return folder


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(__main__.app, arguments)
    if isinstance(result.exception, UserError):
        raise result.exception
    return result.exit_code, result.output


def keys(store: Path) -> list[str]:
    """The entries' keys, the most recently used first."""
    return [kept.manifest.key for kept in FeatureFolder(store).entries()]


def test_ls_lists_entries(store: Path) -> None:
    newest, oldest = keys(store)
    code, told = called("ls")
    assert code == 0
    lines = told.splitlines()
    assert newest in lines[3]
    assert oldest in lines[4]
    for word in ("tiny, split train, 14 images", "textons", "(centre)", "tokens", "10 days"):
        assert word in lines[4]
    assert f"in {store}" in lines[-1]


def test_ls_is_shown_in_a_poor_encoding(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    asked = [sys.executable, "-m", "usseg_ray.features", "ls"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "textons" in done.stdout
    assert f"in {store}" in done.stdout


def test_ls_of_one_says_all_that_it_is_made_of(store: Path) -> None:
    code, told = called("ls", keys(store)[1][:6])
    assert code == 0
    for word in ("float16", "version 1", "32 x 32 px", "14 images x 1", "15 x 4 x 4", str(store)):
        assert word in told


def test_an_empty_store_is_no_error(tmp_path: Path) -> None:
    code, told = called("ls", "--store", str(tmp_path / "new"))
    assert code == 0
    assert "0.00 of at most" in told


def test_rm_removes_what_is_named(store: Path) -> None:
    newest, oldest = keys(store)
    code, told = called("rm", oldest[:8])
    assert (code, keys(store)) == (0, [newest])
    assert told.startswith(f"Removed {oldest}.\n")


def test_rm_removes_what_nobody_used(store: Path) -> None:
    newest, _ = keys(store)
    called("rm", "--unused-for", "11")
    assert len(keys(store)) == 2
    called("rm", "--unused-for", "9")
    assert keys(store) == [newest]


def test_rm_all_leaves_what_is_in_use(store: Path) -> None:
    newest, _ = keys(store)
    entry = FeatureFolder(store).open(newest, ("tokens",))
    assert entry is not None
    with entry:
        _, told = called("rm", "--all")
        assert keys(store) == [newest]
    assert f"{newest} is in use and stays." in told
    called("rm", "--all")
    assert keys(store) == []


def test_verify_names_and_removes_damaged_shards(store: Path) -> None:
    newest, oldest = keys(store)
    assert called("verify") == (0, f"{2 * NUM_SHARDS} shards in 2 entries: none damaged.\n")
    path = list_shards(store / oldest, "tokens")[2].path
    stamp = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    # Even where nothing but the bytes tells.
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    code, told = called("verify")
    assert code == __main__.DAMAGED
    assert f"damaged: shard tokens/000002 of {oldest}; removed" in told
    assert "1 damaged" in told
    assert len(list_shards(store / oldest, "tokens")) == NUM_SHARDS - 1
    assert called("verify", newest)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rm",), "rm: which"),
        (("rm", "zzz"), "zzz: no entry of that key"),
        (("ls", ""), "2 entries of that key"),
        (("verify", "--all"), "are for rm"),
    ],
)
def test_mistakes_are_told(store: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        called(*arguments)
    assert len(keys(store)) == 2
