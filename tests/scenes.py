"""A prepared set of a few synthetic scenes, with odd row counts in every split."""

from collections.abc import Iterator
from pathlib import Path

from usseg_ray.data import synthetic
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.shards import Row, write_split

COUNTS = {"train": 37, "val": 13, "test": 11}


def write(root: Path) -> None:
    """Writes the set, sixteen rows a shard."""
    shards = tuple(
        shard
        for split, count in COUNTS.items()
        for shard in write_split(root, split, _rows(split, count), rows_per_shard=16)
    )
    save_manifest(
        Manifest(
            name="scenes",
            classes=synthetic.CLASSES,
            ignore_index=synthetic.IGNORE_INDEX,
            palette=synthetic.PALETTE,
            splits=split_totals(shards),
            shards=shards,
            source="a test",
        ),
        root,
    )


def _rows(split: str, count: int) -> Iterator[Row]:
    for index in range(count):
        image, label = synthetic.scene(7, split, index)
        pixels, classes = synthetic.encode(image, label)
        yield Row(f"{split}_{index}", pixels, classes, *label.shape)
