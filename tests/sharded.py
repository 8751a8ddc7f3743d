"""A small prepared set in the form of its shards, for the tests of what lies on disk."""

from pathlib import Path

from usseg_ray.data.manifest import (
    Manifest,
    ShardInfo,
    save_manifest,
    split_totals,
)
from usseg_ray.data.shards import (
    Row,
    write_split,
)


def rows(count: int, first: int = 0) -> list[Row]:
    return [
        Row(f"r{i:03d}", bytes([i % 256]) * 50, None if i % 3 else b"label%d" % i, 4, 5)
        for i in range(first, first + count)
    ]


def manifest_of(parts: list[ShardInfo], name: str = "tiny") -> Manifest:
    return Manifest(
        name=name,
        classes=("a", "b"),
        ignore_index=255,
        palette=((1, 2, 3), (4, 5, 6)),
        splits=split_totals(parts),
        shards=tuple(parts),
        source="a test",
    )


def prepared(uri: str | Path) -> Manifest:
    manifest = manifest_of(write_split(uri, "train", rows(70), 40))
    save_manifest(manifest, uri)
    return manifest
