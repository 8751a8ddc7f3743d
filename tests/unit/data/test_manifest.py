import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sharded import manifest_of, prepared, rows
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import resolve
from usseg_ray.data.manifest import (
    MANIFEST,
    load_manifest,
    split_totals,
)
from usseg_ray.data.shards import Row, write_split

Edit = Callable[[dict[str, object]], object]


def test_totals(tmp_path: Path) -> None:
    parts = write_split(tmp_path, "val", rows(9), 4) + write_split(tmp_path, "test", rows(2))
    totals = split_totals(parts)
    assert list(totals) == ["val", "test"]
    assert (totals["val"].rows, totals["val"].labelled) == (9, 3)
    assert (totals["test"].rows, totals["test"].labelled) == (2, 1)


def test_what_is_cut_is_a_mean_over_images(tmp_path: Path) -> None:
    tall = [Row(f"t{n}", b"-", None, 200, 100) for n in range(3)]
    square = [Row("s", b"-", None, 90, 90)]
    parts = write_split(tmp_path, "train", [*tall, *square], 3)
    assert [part.cut for part in parts] == [0.5, 0]
    assert manifest_of(parts).cut("train") == 0.375


def test_manifest_round_trip(uri: str) -> None:
    manifest = prepared(uri)
    assert load_manifest(uri) == manifest
    _, root = resolve(uri)
    assert sorted(path.name for path in Path(root).iterdir()) == [MANIFEST, "shards"]


def test_digest_is_of_content_not_of_names(tmp_path: Path) -> None:
    parts = write_split(tmp_path, "train", rows(9), 4)
    manifest = manifest_of(parts)
    assert manifest.digest() == manifest_of(parts, name="other").digest()
    changed = [
        manifest.model_copy(update={"classes": ("a", "c")}),
        manifest.model_copy(update={"ignore_index": 7}),
        manifest.model_copy(update={"shards": manifest.shards[::-1]}),
    ]
    assert len({manifest.digest(), *(other.digest() for other in changed)}) == 4


def test_shards_of_names_the_splits_that_exist(tmp_path: Path) -> None:
    manifest = prepared(tmp_path)
    assert len(manifest.shards_of("train")) == 2
    with pytest.raises(UserError, match=r"no split 'valid'; it has train\."):
        manifest.shards_of("valid")


def test_no_manifest(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"not a prepared set \(no manifest\.json\)"):
            load_manifest(place)


def set_version(content: dict[str, object]) -> None:
    content["format_version"] = 99


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_version, "format version 99, this program reads 1"),
        (lambda content: content.pop("shards"), "key 'shards': Field required"),
        (lambda content: content.update(rows=3), "key 'rows': Extra inputs"),
        (lambda content: content.update(ignore_index="x"), "key 'ignore_index'"),
    ],
)
def test_manifest_that_cannot_be_used(tmp_path: Path, edit: Edit, message: str) -> None:
    prepared(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    edit(content)
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"manifest\.json: {message}"):
        load_manifest(tmp_path)


def test_manifest_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: not a JSON file"):
        load_manifest(tmp_path)


SHARD = {
    "path": "shards/train-00000-aa.parquet",
    "split": "train",
    "rows": 1,
    "labelled": 0,
    "num_bytes": 1,
    "sha256": "0",
    "row_groups": [1],
}


def written(folder: Path, name: str = "set", **shard: Any) -> Path:
    content = {
        "format_version": 1,
        "name": name,
        "classes": [],
        "ignore_index": 255,
        "splits": {"train": {"rows": 1, "labelled": 0}},
        "shards": [SHARD | shard],
        "source": "x",
    }
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_a_shard_lies_below_the_root(tmp_path: Path) -> None:
    assert load_manifest(written(tmp_path)).shards[0].path == SHARD["path"]


@pytest.mark.parametrize(
    "path", ["../x.parquet", "shards/../../x", "/etc/passwd", "a\\..\\b", "s3://other/x", ""]
)
def test_a_path_that_leads_out_of_the_set_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"key 'shards\.0\.path': .*leads out of the set"):
        load_manifest(written(tmp_path, path=path))


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "\u001b]0;x"])
def test_a_name_that_cannot_be_part_of_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be part of a path"):
        load_manifest(written(tmp_path, name=name))


def test_a_split_of_such_a_name_is_refused(tmp_path: Path) -> None:
    place = written(tmp_path) / MANIFEST
    place.write_text(place.read_text().replace('"train": {', '"../x": {'))
    with pytest.raises(UserError, match=r"name '\.\./x' cannot be part of a path"):
        load_manifest(tmp_path)


def test_json_of_any_depth_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a JSON file"):
        load_manifest(tmp_path)
