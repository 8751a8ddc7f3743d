import json
from pathlib import Path
from typing import Any

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import load_manifest

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
