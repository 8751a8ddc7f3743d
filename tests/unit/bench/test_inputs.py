"""What benchmarks run on is the same every time, and is what it is taken for."""

import io
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from pyarrow import fs

from usseg_ray.bench.inputs import (
    HEIGHT,
    NUM_CLASSES,
    WIDTH,
    make_jpegs,
    random_backbone,
    write_generated_set,
)
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.manifest import load_manifest
from usseg_ray.data.shards import Row, read_rows, verify
from usseg_ray.features.backbones import build_backbone


def test_files_are_distinct_photographs_and_the_same_again() -> None:
    files, again = list(make_jpegs(3)), list(make_jpegs(3))
    assert files == again
    assert len(set(files)) == 3
    assert files != list(make_jpegs(3, seed=1))
    # More are the same and others after them.
    assert list(islice(make_jpegs(5), 3)) == files
    with Image.open(io.BytesIO(files[0])) as image:
        assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))
    # A photograph is not flat, and compresses.
    assert decode_image(files[0]).std() > 10
    assert 10_000 < len(files[0]) < HEIGHT * WIDTH


def test_a_set_has_its_splits_with_labels_where_asked(tmp_path: Path) -> None:
    manifest = write_generated_set(tmp_path, {"train": 3, "val": 2}, labelled=True)
    assert load_manifest(tmp_path) == manifest
    verify(manifest, tmp_path)
    splits = {name: (split.rows, split.labelled) for name, split in manifest.splits.items()}
    assert splits == {"train": (3, 3), "val": (2, 2)}
    assert len(manifest.classes) == NUM_CLASSES
    (shard,) = manifest.shards_of("val")
    table = read_rows(fs.LocalFileSystem(), str(tmp_path / shard.path), 0)
    rows = [Row(**row) for row in table.to_pylist()]
    labels = [decode_label(row.label) for row in rows if row.label is not None]
    assert [label.shape for label in labels] == [(HEIGHT, WIDTH)] * 2
    assert max(int(label.max()) for label in labels) < NUM_CLASSES


def test_without_labels_a_set_has_no_classes(tmp_path: Path) -> None:
    manifest = write_generated_set(tmp_path, {"train": 1})
    assert manifest.classes == ()
    assert manifest.splits["train"].labelled == 0


def test_random_weights_are_saved_and_load_as_any_do(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    config = random_backbone(tmp_path, "vit_tiny_patch16_224")
    assert torch.equal(torch.get_rng_state(), before)
    assert config.weights == str(tmp_path / "vit_tiny_patch16_224.safetensors")
    assert build_backbone(config).spec.patch_size == 16
