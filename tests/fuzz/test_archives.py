"""Whatever an archive or a table holds: files in their place, or the product's own error."""

import io
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.files import FILES, damaged, edits
from tests.fuzz.values import seldom
from usseg_ray.core.errors import UserError
from usseg_ray.prepare.packed import unpack_images
from usseg_ray.prepare.sets.unpack import unpack

MEMBERS = st.dictionaries(
    st.sampled_from(["maps/a.png", "maps", "a.jpg", "../b.png", "/c.png", "maps/./d.PNG", "maps/"])
    | st.text(max_size=300),
    st.sampled_from([FILES["PNG"], FILES["JPEG"], b""]),
    max_size=4,
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
)


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def tar_of(members: dict[str, bytes], kind: bytes, mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            about.size = len(content) if kind == tarfile.REGTYPE else 0
            packed.addfile(about, io.BytesIO(content))
    return stream.getvalue()


def parquet_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    rows = [{"bytes": content, "path": name} for name, content in members.items()]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), stream)
    return stream.getvalue()


def outside(root: Path) -> set[str]:
    """Lists what lies beside the folder that everything is to stay in."""
    return {path.name for path in root.iterdir()} - {"in", "archive"}


@seldom
@given(members=MEMBERS, kind=KINDS, ending=st.sampled_from(["zip", "tar", "tar.gz"]), made=edits)
def test_archives_of_sets(
    members: dict[str, bytes], kind: bytes, ending: str, made: list[tuple[float, bytes]]
) -> None:
    try:
        content = (
            zip_of(members)
            if ending == "zip"
            else tar_of(members, kind, "w:gz" if ending.endswith("gz") else "w")
        )
    except (ValueError, LookupError):  # no such name can be written
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        archive = root / "archive" / f"a.{ending}"
        archive.parent.mkdir()
        (root / "in").mkdir()
        archive.write_bytes(damaged(content, made))
        with suppress(UserError):
            unpack(
                archive, root / "in" / "scratch", {"maps": root / "in" / "maps"}, lambda *_: None
            )
        assert not outside(root)
        assert not (root / "in" / "scratch").exists()


@seldom
@given(members=MEMBERS, kind=KINDS, ending=st.sampled_from(["tar", "parquet"]), made=edits)
def test_archives_of_images(
    members: dict[str, bytes], kind: bytes, ending: str, made: list[tuple[float, bytes]]
) -> None:
    try:
        content = tar_of(members, kind, "w") if ending == "tar" else parquet_of(members)
    except (ValueError, LookupError):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        archive = root / "archive" / f"a.{ending}"
        archive.parent.mkdir()
        archive.write_bytes(damaged(content, made))
        with suppress(UserError):
            unpack_images(str(archive), root / "in")
        assert not outside(root)
