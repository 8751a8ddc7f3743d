import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import MEMBERS, Publisher, files_of, packed, publishing, tarred, zipped
from usseg_ray.core.errors import UserError
from usseg_ray.prepare.sets.download import obtain
from usseg_ray.prepare.sets.unpack import unpack


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as running:
        yield running


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("maps.zip", zipped(MEMBERS)),
        ("maps.tar", tarred(MEMBERS)),
        ("maps.tar.gz", tarred(MEMBERS, mode="w:gz")),
    ],
)
def test_folders_of_an_archive_get_their_places(
    publisher: Publisher, tmp_path: Path, file: str, content: bytes
) -> None:
    archive = packed(publisher, file, content, **{"maps/train": "annotations/train2017"})
    obtain([archive], tmp_path / "set")
    found = {
        path.relative_to(tmp_path / "set").as_posix(): path.read_bytes()
        for path in (tmp_path / "set" / "annotations").rglob("*.png")
    }
    assert found == {
        "annotations/train2017/a.png": b"a",
        "annotations/train2017/b.png": b"bb",
    }
    assert files_of(tmp_path / "set") == ["annotations", file, f"{file}.json"]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, target
    return about


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("up.zip", zipped(MEMBERS | {"maps/../../evil": b"!"})),
        ("root.zip", zipped(MEMBERS | {"/evil": b"!"})),
        ("windows.zip", zipped(MEMBERS | {"maps\\..\\evil": b"!"})),
        ("up.tar", tarred(MEMBERS | {"../evil": b"!"})),
        ("root.tar", tarred(MEMBERS | {"/evil": b"!"})),
        ("symlink.tar", tarred(MEMBERS, special("maps/evil", tarfile.SYMTYPE, "/tmp"))),
        ("hardlink.tar", tarred(MEMBERS, special("maps/evil", tarfile.LNKTYPE, "../evil"))),
        ("device.tar", tarred(MEMBERS, special("maps/evil", tarfile.CHRTYPE))),
    ],
)
def test_a_malicious_archive_writes_nothing(
    publisher: Publisher, tmp_path: Path, file: str, content: bytes
) -> None:
    root = tmp_path / "a" / "b"
    with pytest.raises(UserError, match=r"refused, its member .*evil' (leads|is no file)"):
        obtain([packed(publisher, file, content, maps="maps")], root)
    assert files_of(root) == [file, f"{file}.json"]
    assert files_of(tmp_path / "a") == ["b"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("maps.zip", zipped({"other/a": b"a"}), "has no folder 'maps'"),
        ("maps.zip", zipped({"maps": b"a"}), "has no folder 'maps'"),
        ("maps.zip", b"no archive", r"cannot be unpacked \(File is not a zip file\)"),
        ("maps.zip", zipped(MEMBERS).replace(b"ccc", b"ccd", 1), "cannot be unpacked .Bad CRC"),
        (
            "maps.zip",
            zipped(MEMBERS | {"nameless": b"!"}).replace(b"nameless", b"\0ameless"),
            "refused, its member '' leads out",
        ),
        ("maps.tar", tarred(MEMBERS)[:600], "cannot be unpacked"),
        ("maps.tar", b"", "cannot be unpacked"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be(
    publisher: Publisher, tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        obtain([packed(publisher, file, content, maps="maps")], tmp_path)
    assert files_of(tmp_path) == [file, f"{file}.json"]


@pytest.mark.parametrize(
    "members",
    [
        {"maps": b"a file", "maps/a.png": b"below it"},
        {f"maps/{'a' * 300}.png": b"too long"},
    ],
    ids=["a file and a folder", "too long"],
)
def test_names_that_no_file_can_have_are_told(tmp_path: Path, members: dict[str, bytes]) -> None:
    archive = tmp_path / "maps.zip"
    archive.write_bytes(zipped(members))
    with pytest.raises(UserError, match=r"maps\.zip: cannot be unpacked"):
        unpack(archive, tmp_path / "scratch", {"maps": tmp_path / "set"}, lambda *_: None)
    assert {path.name for path in tmp_path.iterdir()} == {"maps.zip"}
