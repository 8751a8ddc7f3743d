"""Files: written as a whole or not at all, whatever fails."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
from pyarrow import fs as pafs

from usseg_ray.core.files import (
    Content,
    OtherContentError,
    copy_here,
    copy_there,
    resolve,
    write_named,
    write_whole,
    write_whole_at,
)


def full_disk(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def elsewhere(root: Path) -> pafs.FileSystem:
    """Makes a file system that is not taken for the local one."""
    root.mkdir(exist_ok=True)
    return pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())


def fail(stream: BinaryIO) -> None:
    stream.write(b"half")
    full_disk()


@pytest.mark.parametrize("content", ["größer", "größer".encode(), memoryview("größer".encode())])
def test_text_and_bytes_are_written(tmp_path: Path, content: Content) -> None:
    path = tmp_path / "new" / "a.txt"
    write_whole(path, content)
    assert path.read_text("utf-8") == "größer"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_function_writes_to_the_stream(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", lambda stream: stream.write(b"abc"))
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_a_full_disk_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "before")
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "after")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_writer_that_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    for filesystem, root in ((elsewhere(tmp_path), ""), resolve(tmp_path)):
        write_whole_at(filesystem, f"{root}/below/a.json", "before")
        with pytest.raises(OSError, match="No space left"):
            write_whole_at(filesystem, f"{root}/below/a.json", fail)
        assert (tmp_path / "below" / "a.json").read_text() == "before"
        assert [p.name for p in (tmp_path / "below").iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_synced_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usseg_ray.core.files._sync", full_disk)
    write_whole(tmp_path / "a", "there")
    assert (tmp_path / "a").read_text() == "there"


@pytest.mark.parametrize("place", [resolve, lambda path: (elsewhere(path), "")])
def test_a_name_may_follow_from_the_content(
    tmp_path: Path, place: Callable[[Path], tuple[pafs.FileSystem, str]]
) -> None:
    def write(stream: BinaryIO) -> tuple[str, int]:
        written = stream.write(b"abc")
        return hash_of(b"abc"), written

    filesystem, root = place(tmp_path)
    assert write_named(filesystem, f"{root}/below", write) == len(b"abc")
    assert [p.name for p in (tmp_path / "below").iterdir()] == [hash_of(b"abc")]


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_go_there_and_come_back(tmp_path: Path) -> None:
    filesystem = elsewhere(tmp_path / "there")
    (tmp_path / "a").write_bytes(b"abc")
    copy_there(tmp_path / "a", filesystem, "below/a")
    copy_here(filesystem, "below/a", tmp_path / "here" / "b", hash_of(b"abc"))
    assert (tmp_path / "here" / "b").read_bytes() == b"abc"
    assert [p.name for p in (tmp_path / "there" / "below").iterdir()] == ["a"]


def test_other_content_than_promised_is_not_kept(tmp_path: Path) -> None:
    filesystem = elsewhere(tmp_path / "there")
    write_whole_at(filesystem, "below/a", b"abd")
    with pytest.raises(OtherContentError, match="a: its sha256 is not"):
        copy_here(filesystem, "below/a", tmp_path / "here" / "a", hash_of(b"abc"))
    assert list((tmp_path / "here").iterdir()) == []


def test_a_file_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        copy_here(elsewhere(tmp_path / "there"), "a", tmp_path / "here" / "a")
    assert not (tmp_path / "here").exists()
