from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from tests.sharded import prepared, rows
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.data import shards as subject
from usseg_ray.data.manifest import (
    ShardInfo,
)
from usseg_ray.data.shards import (
    ROWS_PER_GROUP,
    SCHEMA,
    Row,
    read_rows,
    remove_strays,
    verify,
    write_shard,
    write_split,
)


def stored(uri: str | Path, shard: ShardInfo) -> pa.Table:
    filesystem, root = resolve(uri)
    groups = range(len(shard.row_groups))
    return pa.concat_tables(read_rows(filesystem, f"{root}/{shard.path}", i) for i in groups)


def test_rows_come_back_as_they_were(uri: str) -> None:
    parts = write_split(uri, "train", iter(rows(70)), rows_per_shard=40)
    assert [(part.rows, part.row_groups) for part in parts] == [(40, (32, 8)), (30, (30,))]
    tables = [stored(uri, part) for part in parts]
    assert all(table.schema.equals(SCHEMA) for table in tables)
    back = [Row(**row) for table in tables for row in table.to_pylist()]
    assert back == rows(70)


def test_nothing_is_compressed_or_encoded(tmp_path: Path) -> None:
    (part,) = write_split(tmp_path, "train", rows(3))
    columns = pq.ParquetFile(tmp_path / part.path).metadata.row_group(0)
    assert {columns.column(i).compression for i in range(len(SCHEMA))} == {"UNCOMPRESSED"}
    assert bytes([2]) * 50 in (tmp_path / part.path).read_bytes()


def test_row_groups_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BYTES_PER_GROUP", 180)
    (part,) = write_split(tmp_path, "train", [Row("x", bytes(100), None, 1, 1)] * 5)
    assert part.row_groups == (2, 2, 1)
    assert ROWS_PER_GROUP == 32


def test_a_shard_knows_what_the_centre_squares_of_its_images_leave_out(tmp_path: Path) -> None:
    sides = [(100, 200), (300, 100), (50, 50)]
    (part,) = write_split(tmp_path, "train", [Row("x", b"-", None, *both) for both in sides])
    assert part.cut == pytest.approx((1 / 2 + 2 / 3) / 3, abs=1e-4)


def test_same_rows_give_the_same_bytes_and_other_rows_others(tmp_path: Path) -> None:
    one, two, three = (
        write_split(tmp_path / name, "train", content, 8)
        for name, content in [("1", rows(20)), ("2", rows(20)), ("3", rows(20, first=1))]
    )
    assert one == two
    assert all(left.sha256 != right.sha256 for left, right in zip(one, three, strict=True))


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    assert write_split(tmp_path, "train", []) == []
    assert list(tmp_path.iterdir()) == []


def test_any_file_system_will_do(tmp_path: Path) -> None:
    below = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    shard = write_shard(below, "deep/set", "train", 7, rows(5))
    assert shard is not None
    assert shard.path.startswith("shards/train-00007-")
    assert read_rows(below, f"deep/set/{shard.path}", 0).num_rows == 5
    assert (tmp_path / "deep/set" / shard.path).stat().st_size == shard.num_bytes


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from rows(40)
        assert list((tmp_path / "shards").glob("*.parquet")) == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(pafs.LocalFileSystem(), str(tmp_path), "train", 0, broken())
    assert list((tmp_path / "shards").iterdir()) == []


def test_verify_names_the_damaged_shard(uri: str) -> None:
    manifest = prepared(uri)
    verify(manifest, uri)
    path = Path(resolve(uri)[1]) / manifest.shards[1].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: the shard is damaged"):
        verify(manifest, uri)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    manifest = prepared(tmp_path)
    path = tmp_path / manifest.shards[0].path
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: the shard is missing"):
        verify(manifest, tmp_path)
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read"):
        read_rows(pafs.LocalFileSystem(), str(path), 0)


def test_a_shard_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"hello" * 10)
    with pytest.raises(UserError, match=r"x\.parquet: cannot be read"):
        read_rows(pafs.LocalFileSystem(), str(tmp_path / "x.parquet"), 0)


def test_strays_go_and_the_rest_stays(uri: str) -> None:
    manifest = prepared(uri)
    folder = Path(resolve(uri)[1]) / "shards"
    own = folder / "notes.txt"
    for path in (own, folder / "train-00009-abc.parquet", folder / ".abc.unfinished"):
        path.write_bytes(b"x")
    remove_strays(uri)
    names = {Path(shard.path).name for shard in manifest.shards}
    assert {path.name for path in folder.iterdir()} == names | {own.name}


def test_without_a_manifest_every_shard_is_a_stray(tmp_path: Path) -> None:
    remove_strays(tmp_path)
    write_split(tmp_path, "train", rows(3))
    remove_strays(tmp_path)
    assert list((tmp_path / "shards").iterdir()) == []


def test_unknown_scheme() -> None:
    with pytest.raises(UserError, match=r"s4://bucket/x: cannot be opened"):
        resolve("s4://bucket/x")
