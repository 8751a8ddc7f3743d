import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.served import (
    MEMBERS,
    Publisher,
    Served,
    archived,
    files_of,
    packed,
    publishing,
    serve,
    zipped,
)
from tests.trees import plant
from usseg_ray.core.errors import UserError
from usseg_ray.prepare.__main__ import fetch_published, main
from usseg_ray.prepare.sets import PUBLISHED_SETS, find_set
from usseg_ray.prepare.sets.download import ATTEMPTS, Archive, fetch_archive, missing, obtain

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as running:
        running.files["set.bin"] = Served(CONTENT)
        yield running


def offer(publisher: Publisher, content: bytes = CONTENT, **changes: object) -> Archive:
    """The file as its publisher states it."""
    about = Archive(
        publisher.url("set.bin"), "set.bin", hashlib.sha256(content).hexdigest(), len(content)
    )
    return replace(about, **changes)  # type: ignore[arg-type]


def test_a_file_arrives_whole(publisher: Publisher, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    path = fetch_archive(offer(publisher), tmp_path, lambda *about: told.append(about))
    assert path.read_bytes() == CONTENT
    assert files_of(tmp_path) == ["set.bin", "set.bin.json"]
    assert publisher.requests == [("set.bin", None)]
    assert ("set.bin: downloading", len(CONTENT), len(CONTENT)) in told
    assert told[-1] == ("set.bin: checking", len(CONTENT), len(CONTENT))


def test_a_broken_line_goes_on_where_it_ended(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["set.bin"].cuts = [1_000_000, 500_000]
    assert fetch_archive(offer(publisher), tmp_path, pause=0).read_bytes() == CONTENT
    ranges = [asked for _, asked in publisher.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert publisher.sent == len(CONTENT)


def test_a_later_run_goes_on_where_the_last_gave_up(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["set.bin"].cuts = [1_000_000] + [0] * ATTEMPTS
    with pytest.raises(UserError, match=r"cannot be fetched \(it ended after 1000000 of 3000000"):
        fetch_archive(offer(publisher), tmp_path, pause=0)
    assert files_of(tmp_path) == ["set.bin.part", "set.bin.part.json"]
    publisher.files["set.bin"].cuts = []
    assert fetch_archive(offer(publisher), tmp_path).read_bytes() == CONTENT
    assert publisher.sent == len(CONTENT)


def test_lines_that_bring_something_may_break_often(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["set.bin"].cuts = [100_000] * (3 * ATTEMPTS)
    assert fetch_archive(offer(publisher), tmp_path, pause=0).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["set.bin"] = Served(CONTENT, ranges=False, cuts=[1_000_000])
    assert fetch_archive(offer(publisher), tmp_path, pause=0).read_bytes() == CONTENT
    assert publisher.sent == 1_000_000 + len(CONTENT)


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.files["set.bin"] = Served(CONTENT, ranges=False, cuts=[500_000, 1_000_000] * ATTEMPTS)
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch_archive(offer(publisher), tmp_path, pause=0)
    assert len(publisher.requests) == 1 + ATTEMPTS


@pytest.mark.parametrize("etag", ['"2"', '"1"'], ids=["by its tag", "by its size"])
def test_a_file_that_changed_is_fetched_anew(
    publisher: Publisher, tmp_path: Path, etag: str
) -> None:
    publisher.files["set.bin"].cuts = [1_000_000] + [0] * ATTEMPTS
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch_archive(offer(publisher), tmp_path, pause=0)
    other = CONTENT[::-1] + b"more" * (etag == '"1"')
    publisher.files["set.bin"] = Served(other, etag=etag)
    assert fetch_archive(offer(publisher, other), tmp_path, pause=0).read_bytes() == other


def test_a_part_beyond_the_end_is_thrown_away(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "set.bin.part").write_bytes(CONTENT + CONTENT)
    about = {"etag": '"1"', "modified": None, "size": len(CONTENT)}
    (tmp_path / "set.bin.part.json").write_text(json.dumps(about))
    assert fetch_archive(offer(publisher), tmp_path, pause=0).read_bytes() == CONTENT


def test_a_part_of_which_nothing_is_known_is_not_trusted(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "set.bin.part").write_bytes(b"x" * 1000)
    assert fetch_archive(offer(publisher), tmp_path).read_bytes() == CONTENT
    assert publisher.requests == [("set.bin", None)]


def test_a_wrong_checksum_is_told_and_nothing_is_kept(publisher: Publisher, tmp_path: Path) -> None:
    wrong = "0" * 64
    right = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(UserError, match=rf"Expected sha256 {wrong} \(published\), found {right}"):
        fetch_archive(offer(publisher, sha256=wrong), tmp_path)
    assert files_of(tmp_path) == []


def test_another_size_is_told_before_the_file_arrives(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has 3000000 bytes instead of 7"):
        fetch_archive(offer(publisher, size=7), tmp_path)
    assert files_of(tmp_path) == []


def test_without_a_published_checksum_the_first_one_counts(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.files["set.bin"].sized = False
    unstated = offer(publisher, sha256=None, size=None)
    fetch_archive(unstated, tmp_path).unlink()
    first = json.loads((tmp_path / "set.bin.json").read_text())["sha256"]
    assert first == hashlib.sha256(CONTENT).hexdigest()
    publisher.files["set.bin"] = Served(b"other")
    with pytest.raises(UserError, match=rf"Expected sha256 {first} \(as in .*set\.bin\.json\)"):
        fetch_archive(unstated, tmp_path)


def test_a_file_that_is_there_is_checked_and_never_removed(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "set.bin").write_bytes(CONTENT)
    fetch_archive(offer(publisher), tmp_path)
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"Remove .*set\.bin to fetch it again"):
        fetch_archive(offer(publisher), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == b"mine"
    assert publisher.requests == []


def test_a_server_that_refuses_is_asked_once(publisher: Publisher, tmp_path: Path) -> None:
    del publisher.files["set.bin"]
    with pytest.raises(UserError, match=r"set\.bin: the server refuses it \(404 Not Found\)"):
        fetch_archive(offer(publisher), tmp_path)
    assert len(publisher.requests) == 1


def test_a_server_that_is_busy_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files["set.bin"].status = 503
    with pytest.raises(UserError, match=r"cannot be fetched \(503 Service Unavailable\)"):
        fetch_archive(offer(publisher), tmp_path, pause=0)
    assert len(publisher.requests) == ATTEMPTS


def test_a_server_that_does_not_answer(publisher: Publisher, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/set.bin"
    with pytest.raises(UserError, match=r"cannot be fetched \(.*refused\)"):
        fetch_archive(offer(publisher, url=closed), tmp_path, pause=0)


def test_nothing_is_fetched_over_http(publisher: Publisher, tmp_path: Path) -> None:
    for url in ("http://example.org/set.bin", "ftp://127.0.0.1/set.bin", "file:///etc/passwd"):
        with pytest.raises(UserError, match="over https only"):
            fetch_archive(offer(publisher, url=url), tmp_path)
    publisher.files["set.bin"] = Served(b"", status=302, location="http://example.org/set.bin")
    with pytest.raises(UserError, match=r"http://example\.org/set\.bin: refused"):
        fetch_archive(offer(publisher), tmp_path)
    publisher.files["set.bin"] = Served(b"", status=302, location=publisher.url("moved"))
    publisher.files["moved"] = Served(CONTENT, cuts=[1_000_000])
    assert fetch_archive(offer(publisher), tmp_path, pause=0).read_bytes() == CONTENT
    assert publisher.requests[-1] == ("moved", "bytes=1000000-")


def test_ctrl_c_leaves_what_has_arrived(publisher: Publisher, tmp_path: Path) -> None:
    def press(what: str, done: int, total: int | None) -> None:
        if done > 1_500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain([offer(publisher)], tmp_path, press)
    kept = (tmp_path / "set.bin.part").stat().st_size
    assert 1_500_000 < kept < len(CONTENT)
    obtain([offer(publisher)], tmp_path)
    assert publisher.requests[-1] == ("set.bin", f"bytes={kept}-")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_a_second_run_is_idle(publisher: Publisher, tmp_path: Path) -> None:
    archives = [packed(publisher, "maps.zip", zipped(MEMBERS), maps="maps"), offer(publisher)]
    assert missing(archives, tmp_path) == archives
    obtain(archives, tmp_path)
    (tmp_path / "maps.zip").unlink()
    asked = len(publisher.requests)
    inode = (tmp_path / "maps" / "val" / "c.png").stat().st_ino
    assert missing(archives, tmp_path) == []
    obtain(archives, tmp_path, lambda *_: pytest.fail("nothing is to be done"))
    assert len(publisher.requests) == asked
    assert (tmp_path / "maps" / "val" / "c.png").stat().st_ino == inode


def test_a_place_that_vanished_is_unpacked_again(publisher: Publisher, tmp_path: Path) -> None:
    archive = packed(publisher, "maps.zip", zipped(MEMBERS), **{"maps/train": "a", "maps/val": "b"})
    obtain([archive], tmp_path)
    (tmp_path / "b" / "c.png").unlink()
    (tmp_path / "b").rmdir()
    obtain([archive], tmp_path)
    assert (tmp_path / "b" / "c.png").read_bytes() == b"ccc"
    assert files_of(tmp_path / "a") == ["a.png", "b.png"]
    assert len(publisher.requests) == 1


def test_a_place_that_somebody_filled_is_kept(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "mine.png").write_bytes(b"mine")
    archive = packed(publisher, "maps.zip", zipped(MEMBERS), maps="maps")
    with pytest.raises(UserError, match="maps is there already, and not from --download"):
        obtain([archive], tmp_path)
    assert files_of(tmp_path / "maps") == ["mine.png"]
    assert publisher.requests == []


def test_ctrl_c_while_unpacking_leaves_no_half_folder(publisher: Publisher, tmp_path: Path) -> None:
    def press(what: str, done: int, total: int | None) -> None:
        if what == "maps.zip: unpacking":
            raise KeyboardInterrupt

    archive = packed(publisher, "maps.zip", zipped(MEMBERS), maps="maps")
    with pytest.raises(KeyboardInterrupt):
        obtain([archive], tmp_path, press)
    assert files_of(tmp_path) == ["maps.zip", "maps.zip.json"]
    obtain([archive], tmp_path)
    assert len(publisher.requests) == 1
    assert (tmp_path / "maps" / "val" / "c.png").exists()


def test_a_full_disk_is_told_before_anything_is_fetched(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no other way to have a small disk without the rights to make one.
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**7, 10**6, 5_000_000))
    archive = packed(publisher, "maps.zip", CONTENT, maps="maps")
    with pytest.raises(UserError, match=r"0\.0 GB are needed for the files, 0\.0 GB are free"):
        obtain([archive], tmp_path)
    assert publisher.requests == []
    obtain([offer(publisher)], tmp_path)


def test_a_folder_that_cannot_be_made(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        obtain([offer(publisher)], tmp_path / "file")


def test_a_published_set_is_fetched_and_found(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plant(tmp_path / "made", "voc2012")
    content = archived(made, "VOCdevkit")
    benchmark = replace(
        find_set("voc2012"), archives=(serve(publisher, find_set("voc2012").archives[0], content),)
    )
    fetch_published(benchmark, str(tmp_path / "source"))
    found = benchmark.discover(tmp_path / "source").entries
    expected = benchmark.discover(made).entries
    assert [(entry.split, entry.id) for entry in found] == [
        (entry.split, entry.id) for entry in expected
    ]
    for entry, original in zip(found, expected, strict=True):
        assert Path(entry.image).read_bytes() == Path(original.image).read_bytes()
    told = capsys.readouterr().out
    assert "Downloading voc2012 to " in told
    assert "1 files, 0.0 GB, from 127.0.0.1." in told
    assert "Flickr's terms of use" in told
    fetch_published(benchmark, str(tmp_path / "source"))
    assert capsys.readouterr().out == ""


def test_a_file_of_which_no_checksum_is_published_is_told(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unstated = offer(publisher, sha256=None, size=None)
    fetch_published(replace(find_set("voc2012"), archives=(unstated,)), str(tmp_path))
    told = capsys.readouterr().out
    assert "1 files, 0.0 GB and 1 of unstated size, from" in told
    assert "set.bin: nobody publishes a checksum" in told


def test_what_to_download_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--download needs --dataset: one of cocostuff27, "):
        main(source=str(tmp_path / "set"), download=True)
    with pytest.raises(UserError, match="cityscapes27 is not handed out freely"):
        main(source=str(tmp_path / "set"), download=True, dataset="cityscapes27")
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("name", sorted(PUBLISHED_SETS))
def test_every_set_is_fetched_or_says_where_to_ask(name: str, tmp_path: Path) -> None:
    benchmark = find_set(name)
    files = [archive.file for archive in benchmark.archives]
    assert len(set(files)) == len(files)
    for archive in benchmark.archives:
        assert archive.url.startswith("https://")
        assert archive.sha256 is None or len(bytes.fromhex(archive.sha256)) == 32
    if not benchmark.archives:
        with pytest.raises(UserError, match=r"not handed out freely\. \S.* https://.*--source"):
            benchmark.download(tmp_path)


@pytest.mark.parametrize("name", ["voc2012", "camvid", "cocostuff27", "cocostuff171"])
def test_what_is_unpacked_is_what_is_looked_for(name: str, tmp_path: Path) -> None:
    root = plant(tmp_path, name)
    for archive in find_set(name).archives:
        for place in archive.unpacks.values() or [archive.file]:
            top = root / place.removeprefix("CamVid")
            assert top.exists(), place
