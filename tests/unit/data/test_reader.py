from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from usseg_ray.core.config import DataConfig, JitterConfig
from usseg_ray.core.types import Images, LabelledImages
from usseg_ray.core.views import FixedView, Frame
from usseg_ray.data.blocks import Block
from usseg_ray.data.manifest import Manifest, save_manifest, split_totals
from usseg_ray.data.plans import Piece
from usseg_ray.data.reader import KeptPasses, Reader
from usseg_ray.data.reading import Showing, stream_here
from usseg_ray.data.shards import write_split

IMAGE_BYTES = 3 * tiny.SIDE**2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


class CountingStream:
    """Reads in this process and counts how many rows were read."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, root: str, pieces: Sequence[Piece], showing: Showing) -> Iterator[Block]:
        for block in stream_here(root, pieces, showing):
            self.rows += len(block["id"])
            yield block


def reader(prepared: tuple[str, Manifest], **settings: Any) -> tuple[Reader, CountingStream]:
    place = {key: settings.pop(key) for key in ("rank", "world", "seed") if key in settings}
    sizes = {"train_size": tiny.SIDE, "eval_size": tiny.SIDE} | settings
    stream = CountingStream()
    return Reader(*prepared, DataConfig(**sizes), stream=stream, **place), stream


def walk(batches: Iterator[Images]) -> list[tuple[tuple[str, ...], torch.Tensor]]:
    return [(images.ids, images.pixels) for images in batches]


def equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


def epochs_of(one: Reader, epochs: range) -> list[list[Any]]:
    return [walk(batches) for batches in one.training(epochs, 3, 4)]


def test_training_gives_exact_epochs(prepared: tuple[str, Manifest]) -> None:
    epochs = epochs_of(reader(prepared)[0], range(3))
    assert [[len(ids) for ids, _ in epoch] for epoch in epochs] == [[4, 4, 4]] * 3
    for epoch in epochs:
        ids = [key for batch, _ in epoch for key in batch]
        assert len(set(ids)) == 12
        assert all(key.startswith("train-") for key in ids)
    assert not equal(epochs[0], epochs[1])


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("place", [{}, {"rank": 1, "world": 2, "shuffle_window": 5}])
def test_a_resumed_stream_goes_on_as_if_nothing_had_happened(
    prepared: tuple[str, Manifest], start: int, place: dict[str, int]
) -> None:
    whole = epochs_of(reader(prepared, **place)[0], range(4))
    resumed = epochs_of(reader(prepared, **place)[0], range(start, 4))
    assert all(equal(a, b) for a, b in zip(whole[start:], resumed, strict=True))


def test_order_and_crops_follow_the_seed(prepared: tuple[str, Manifest]) -> None:
    first, again, other = (
        epochs_of(reader(prepared, seed=seed)[0], range(1))[0] for seed in (1, 1, 2)
    )
    assert equal(first, again)
    assert not equal(first, other)


def test_workers_share_an_epoch(prepared: tuple[str, Manifest]) -> None:
    parts = [epochs_of(reader(prepared, rank=r, world=2)[0], range(1))[0] for r in range(2)]
    # 24 rows of 14: the first walk is seen once by all together, ten rows a second time.
    ids = [key for part in parts for batch, _ in part for key in batch]
    assert sorted(set(ids)) == [f"train-{i:02d}" for i in range(14)]
    assert max(ids.count(key) for key in ids) == 2


def test_a_pass_is_every_row_in_order(prepared: tuple[str, Manifest]) -> None:
    batches = walk(reader(prepared)[0].passes("val", 3))
    assert [len(ids) for ids, _ in batches] == [3, 3, 1]
    assert [key for ids, _ in batches for key in ids] == [f"val-{i:02d}" for i in range(7)]
    assert batches[0][1].dtype == torch.uint8
    for number, pixels in enumerate(torch.cat([pixels for _, pixels in batches])):
        image, _ = tiny.picture(3000 + number)
        assert torch.equal(pixels, torch.from_numpy(image).permute(2, 0, 1))


@pytest.mark.parametrize("world", [2, 3, 9])
def test_passes_of_all_workers_make_one(prepared: tuple[str, Manifest], world: int) -> None:
    found = [
        key
        for rank in range(world)
        for ids, _ in walk(reader(prepared, rank=rank, world=world)[0].passes("val", 2))
        for key in ids
    ]
    assert found == [f"val-{i:02d}" for i in range(7)]


def test_a_pass_may_show_some_images_alone(prepared: tuple[str, Manifest]) -> None:
    one, _ = reader(prepared)
    names = [f"val-{i:02d}" for i in range(7)]
    assert one.names("val") == names
    for _ in range(2):  # read, then from memory
        batches = walk(one.passes("val", 2, {"val-05", "val-02", "val-03"}))
        # A fourth fills the second batch; the last one of all is smaller.
        assert [list(ids) for ids, _ in batches] == [["val-00", "val-02"], ["val-03", "val-05"]]
        assert torch.equal(batches[1][1], walk(one.passes("val", 7))[0][1][[3, 5]])
    assert [len(ids) for ids, _ in walk(one.passes("val", 2, set(names)))] == [2, 2, 2, 1]
    assert [list(ids) for ids, _ in walk(one.passes("val", 4, {"val-05"}))] == [names[4:]]


def test_labels_come_with_their_images(prepared: tuple[str, Manifest]) -> None:
    number = 0
    for batch in reader(prepared)[0].labelled("test", 2):
        assert isinstance(batch, LabelledImages)
        assert batch.labels.dtype == torch.int64
        for label in batch.labels:
            _, expected = tiny.picture(4000 + number)
            assert torch.equal(label, torch.from_numpy(expected).long())
            number += 1
    assert number == tiny.SPLITS["test"]


@pytest.mark.parametrize("world", [2, 3, 9])
def test_labelled_batches_do_not_depend_on_the_workers(
    prepared: tuple[str, Manifest], world: int
) -> None:
    alone = list(reader(prepared)[0].labelled("val", 2))
    assert [batch.numbers for batch in alone] == [(0, 1), (2, 3), (4, 5), (6,)]
    parts = [
        batch
        for rank in range(world)
        for batch in reader(prepared, rank=rank, world=world)[0].labelled("val", 2)
    ]
    assert [batch.numbers for batch in parts] == [batch.numbers for batch in alone]
    assert all(
        torch.equal(a.images.pixels, b.images.pixels) and torch.equal(a.labels, b.labels)
        for a, b in zip(alone, parts, strict=True)
    )


def test_single_rows_can_be_read_again(prepared: tuple[str, Manifest]) -> None:
    one = reader(prepared)[0]
    walked = [batch.images.ids[0] for batch in one.labelled("val", 1)]
    again = list(one.labelled_rows("val", [5, 0]))
    assert [batch.images.ids for batch in again] == [(walked[5],), (walked[0],)]
    assert [batch.numbers for batch in again] == [(5,), (0,)]


def test_whole_frames_come_alone(prepared: tuple[str, Manifest]) -> None:
    config = DataConfig(train_size=tiny.SIDE, eval_size=16)
    one = Reader(*prepared, config, frame=Frame(16, "whole"))
    for _ in range(2):  # the second time from memory
        batches = list(one.labelled("test", 4))
        assert [batch.numbers for batch in batches] == [(i,) for i in range(5)]
        assert {batch.images.pixels.shape for batch in batches} == {(1, 3, 16, 16)}
        assert {batch.labels.shape for batch in batches} == {(1, tiny.SIDE, tiny.SIDE)}


def test_labelled_walks_labelled_rows_only(tmp_path: Path) -> None:
    rows = [tiny.row("val", i, labelled=i < 2) for i in range(5)]
    shards = tuple(write_split(tmp_path, "val", rows, 2))
    manifest = Manifest(
        name="mixed",
        classes=tiny.CLASSES,
        ignore_index=tiny.IGNORE,
        splits=split_totals(shards),
        shards=shards,
        source="a test",
    )
    save_manifest(manifest, tmp_path)
    one, _ = reader((str(tmp_path), manifest))
    assert sum(len(batch.labels) for batch in one.labelled("val", 4)) == 2
    assert manifest.splits["val"].labelled == 2
    assert sum(len(ids) for ids, _ in walk(one.passes("val", 4))) == 5


def test_memory_changes_nothing_but_what_is_read(prepared: tuple[str, Manifest]) -> None:
    forgetful, reads_twice = reader(prepared, keep_mib=0)
    keeping, reads_once = reader(prepared, keep_mib=64)
    passes = [walk(one.passes("val", 4)) for one in (forgetful, keeping) for _ in range(2)]
    assert all(equal(passes[0], other) for other in passes[1:])
    assert (reads_twice.rows, reads_once.rows) == (14, 7)


def test_batches_of_another_size_come_from_the_same_memory(
    prepared: tuple[str, Manifest],
) -> None:
    one, stream = reader(prepared)
    walk(one.passes("val", 4))
    assert [len(ids) for ids, _ in walk(one.passes("val", 5))] == [5, 2]
    assert stream.rows == 7


def test_readers_share_memory_but_none_takes_names_for_pixels(
    prepared: tuple[str, Manifest],
) -> None:
    kept, stream, config = KeptPasses(), CountingStream(), DataConfig(eval_size=tiny.SIDE)
    named = {("val", FixedView.of(Frame(tiny.SIDE), None))}
    by_name = Reader(*prepared, config, stream=stream, names_only=named, kept=kept)
    one, other = (Reader(*prepared, config, stream=stream, kept=kept) for _ in range(2))
    assert [pixels.numel() for _, pixels in walk(by_name.passes("val", 4))] == [0, 0]
    assert stream.rows == 0
    assert equal(walk(one.passes("val", 4)), walk(other.passes("val", 4)))
    assert stream.rows == 7
    assert kept.num_bytes >= 7 * IMAGE_BYTES


def test_memory_is_bounded(tmp_path: Path) -> None:
    splits = {"train": 400, "val": 100, "test": 5}
    rows = {name: (tiny.row(name, i % 7) for i in range(count)) for name, count in splits.items()}
    shards = tuple(s for name, made in rows.items() for s in write_split(tmp_path, name, made))
    manifest = Manifest(
        name="larger",
        classes=tiny.CLASSES,
        ignore_index=tiny.IGNORE,
        splits=split_totals(shards),
        shards=shards,
        source="a test",
    )
    # 1 MiB holds 341 images: not the training split, but what comes after it.
    one, stream = reader((str(tmp_path), manifest), keep_mib=1)
    for _ in range(3):
        for split in splits:
            walk(one.passes(split, 50))
    assert 100 * IMAGE_BYTES < 2**20 < 400 * IMAGE_BYTES
    assert stream.rows == 3 * 400 + 100 + 5


def test_a_walk_that_is_broken_off_takes_no_memory(prepared: tuple[str, Manifest]) -> None:
    one, stream = reader(prepared, keep_mib=1)
    for _ in range(2 * 2**20 // (4 * IMAGE_BYTES)):
        next(one.passes("train", 2))
    stream.rows = 0
    for _ in range(2):
        walk(one.passes("val", 4))
    assert stream.rows == 7


@pytest.mark.parametrize("world", [1, 2, 3])
def test_crops_are_dealt_alike_to_any_number_of_workers(
    prepared: tuple[str, Manifest], world: int
) -> None:
    alone = walk(reader(prepared)[0].crops(3, 6))
    assert [len(ids) for ids, _ in alone] == [6, 6, 2]
    parts = [walk(reader(prepared, rank=rank, world=world)[0].crops(3, 6)) for rank in range(world)]
    for batch, shares in zip(alone, zip(*parts, strict=True), strict=False):
        assert batch[0] == tuple(key for ids, _ in shares for key in ids)
        assert torch.equal(batch[1], torch.cat([pixels for _, pixels in shares]))


def test_crops_of_an_epoch_are_its_training_views(prepared: tuple[str, Manifest]) -> None:
    one = reader(prepared)[0]
    (epoch,) = epochs_of(one, range(2, 3))
    views = {key: pixels for ids, batch in epoch for key, pixels in zip(ids, batch, strict=True)}
    seen = {
        key: pixels
        for ids, batch in walk(one.crops(2, 5))
        for key, pixels in zip(ids, batch, strict=True)
    }
    assert len(seen) == tiny.SPLITS["train"]
    assert all(torch.equal(seen[key], pixels) for key, pixels in views.items())
    assert [ids for ids, _ in walk(one.crops(2, 5))] != [ids for ids, _ in walk(one.crops(4, 5))]


def test_positives_are_views_of_neighbours(prepared: tuple[str, Manifest]) -> None:
    one = reader(prepared)[0]
    one.neighbours = (np.arange(14)[:, None] + np.array([0, 3])) % 14
    (epoch,) = one.training(range(1), 3, 4)
    one.neighbours = None
    crops = {key: view for i in one.crops(0, 7) for key, view in zip(i.ids, i.pixels, strict=True)}
    for images in epoch:
        assert images.positive is not None
        for key, pixels, positive in zip(images.ids, images.pixels, images.positive, strict=True):
            assert torch.equal(pixels, crops[key])
            assert torch.equal(positive, crops[f"train-{(int(key[6:]) + 3) % 14:02d}"])


def test_pairs_come_in_training_alone(prepared: tuple[str, Manifest]) -> None:
    config = DataConfig(train_size=16, eval_size=tiny.SIDE)
    one = Reader(*prepared, config, pair=JitterConfig())
    ((images, *_),) = (list(epoch) for epoch in one.training(range(1), 3, 4))
    for given in (images, next(one.crops(0, 4))):
        assert given.pixels.shape == (4, 3, 16, 16)
        assert given.first is not None
        assert given.first.shape == (4, 3, 32, 32)
        assert given.geometry is not None
        assert given.geometry.dtype == torch.float64
    assert next(one.passes("train", 4)).first is None


def test_a_few_images_lie_evenly_over_the_split(prepared: tuple[str, Manifest]) -> None:
    alone = walk(reader(prepared)[0].few("train", 5, 2))
    assert [ids for ids, _ in alone] == [
        ("train-00", "train-02"),
        ("train-05", "train-08"),
        ("train-11",),
    ]
    whole = {
        name: row
        for ids, rows in walk(reader(prepared)[0].passes("train", 4))
        for name, row in zip(ids, rows, strict=True)
    }
    assert all(
        torch.equal(whole[name], row)
        for ids, rows in alone
        for name, row in zip(ids, rows, strict=True)
    )
    shared = [walk(reader(prepared, rank=rank, world=2)[0].few("train", 5, 2)) for rank in (0, 1)]
    assert equal([shared[0][0], shared[1][0], shared[0][1]], alone)
    assert walk(reader(prepared, rank=4, world=5)[0].few("train", 5, 2)) == []
    everything = [name for ids, _ in walk(reader(prepared)[0].few("train", 99, 4)) for name in ids]
    assert everything == sorted(whole)


def test_a_few_images_have_pixels_where_nobody_looks_at_them(
    prepared: tuple[str, Manifest],
) -> None:
    config = DataConfig(train_size=tiny.SIDE, eval_size=tiny.SIDE)
    stored = {("train", FixedView.of(Frame(tiny.SIDE)))}
    blind = Reader(*prepared, config, names_only=stored)
    assert next(iter(blind.passes("train", 2))).pixels.numel() == 0
    assert next(iter(blind.few("train", 4, 2))).pixels.shape == (2, 3, tiny.SIDE, tiny.SIDE)
