from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from usseg_ray.config import UserError
from usseg_ray.data.decode import decode_image, decode_label
from usseg_ray.data.reading import (
    Block,
    Piece,
    Showing,
    Taker,
    cut,
    evaluation_plan,
    mix,
    read_piece,
    regroup,
    row_groups,
    stream_here,
    training_plan,
)
from usseg_ray.data.shards import Manifest, ShardInfo, split_totals, write_split
from usseg_ray.data.transforms import evaluation_view, view_image, view_label

Rows = list[tuple[str, int, int]]


def described(*groups: tuple[int, ...], split: str = "train") -> Manifest:
    """Describes a set of shards with these row groups; there are no files."""
    shards = tuple(
        ShardInfo(
            path=f"{split}-{number}",
            split=split,
            rows=sum(sizes),
            labelled=0,
            num_bytes=1,
            sha256="",
            row_groups=sizes,
        )
        for number, sizes in enumerate(groups)
    )
    return Manifest(
        name="described",
        classes=(),
        ignore_index=255,
        splits=split_totals(shards),
        shards=shards,
        source="a test",
    )


def rows(pieces: list[Piece]) -> Rows:
    return [(p.shard, p.row_group, row) for p in pieces for row in range(p.start, p.stop)]


def training(manifest: Manifest, count: int, rank: int = 0, world: int = 1, **key: int) -> Rows:
    keys = {"seed": 0, "epoch": 0} | key
    return rows(training_plan(manifest, "train", rows=count, rank=rank, world=world, **keys))


SMALL = described((5, 4), (6,), (1, 1, 3))
every_world = pytest.mark.parametrize("world", [1, 2, 3, 7])
shard_sizes = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1)


def test_row_groups_follow_the_manifest() -> None:
    assert [(p.shard, p.row_group, p.rows) for p in row_groups(SMALL, "train")] == [
        ("train-0", 0, 5),
        ("train-0", 1, 4),
        ("train-1", 0, 6),
        ("train-2", 0, 1),
        ("train-2", 1, 1),
        ("train-2", 2, 3),
    ]


def test_an_unknown_split_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no split 'nowhere'; it has train"):
        evaluation_plan(SMALL, "nowhere", 0, 1)


@every_world
def test_evaluation_covers_every_row_once_and_in_order(world: int) -> None:
    parts = [rows(evaluation_plan(SMALL, "train", rank, world)) for rank in range(world)]
    assert list(chain(*parts)) == rows(row_groups(SMALL, "train"))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(shard_sizes, st.integers(1, 9))
def test_evaluation_of_any_set(groups: list[tuple[int, ...]], world: int) -> None:
    manifest = described(*groups)
    parts = [rows(evaluation_plan(manifest, "train", rank, world)) for rank in range(world)]
    assert list(chain(*parts)) == rows(row_groups(manifest, "train"))


@every_world
def test_training_parts_are_equal_and_disjoint_within_a_walk(world: int) -> None:
    share = 20 // world
    parts = [training(SMALL, share, rank, world) for rank in range(world)]
    assert [len(part) for part in parts] == [share] * world
    assert len(set(chain(*parts))) == share * world


@every_world
def test_more_rows_than_the_split_has_begin_another_walk(world: int) -> None:
    share = -(-50 // world)
    together = list(chain(*(training(SMALL, share, rank, world) for rank in range(world))))
    assert len(together) == share * world
    everything = sorted(rows(row_groups(SMALL, "train")))
    assert sorted(together[:20]) == sorted(together[20:40]) == everything
    assert together[:20] != together[20:40]


@settings(max_examples=50)
@given(shard_sizes, st.integers(1, 60), st.integers(1, 4))
def test_training_repeats_no_row_before_all_were_seen(
    groups: list[tuple[int, ...]], share: int, world: int
) -> None:
    manifest = described(*groups)
    together = list(chain(*(training(manifest, share, rank, world) for rank in range(world))))
    assert len(together) == share * world
    total = manifest.splits["train"].rows
    for start in range(0, len(together), total):
        walk = together[start : start + total]
        assert len(set(walk)) == len(walk)


def test_training_order_depends_on_seed_and_epoch_alone() -> None:
    manifest = described(*[(4, 4)] * 8)
    first = training(manifest, 64)
    assert training(manifest, 64) == first
    assert training(manifest, 64, epoch=1) != first
    assert training(manifest, 64, seed=1) != first
    assert sorted(training(manifest, 64, epoch=1)) == sorted(first)


def test_workers_read_parts_of_one_order() -> None:
    one = training(SMALL, 20)
    assert training(SMALL, 10, 0, 2) + training(SMALL, 10, 1, 2) == one


def test_training_pieces_carry_their_epoch() -> None:
    plan = training_plan(SMALL, "train", seed=0, epoch=3, rows=7, rank=1, world=2)
    assert {piece.epoch for piece in plan} == {3}


@given(shard_sizes, st.integers(0, 60), st.integers(0, 60))
def test_cut_is_a_slice(groups: list[tuple[int, ...]], start: int, stop: int) -> None:
    pieces = row_groups(described(*groups), "train")
    assert rows(cut(pieces, start, stop)) == rows(pieces)[start:stop]


def test_cut_keeps_the_epoch_and_drops_empty_pieces() -> None:
    pieces = [Piece("a", 0, 2, 5, epoch=4), Piece("a", 1, 0, 2, epoch=4)]
    assert cut(pieces, 1, 3) == [Piece("a", 0, 3, 5, epoch=4)]


def blocks(sizes: list[int]) -> Iterator[Block]:
    first = 0
    for size in sizes:
        numbers = np.arange(first, first + size)
        yield {"id": numbers.astype(str).astype(object), "image": numbers}
        first += size


sizes_of_blocks = st.lists(st.integers(0, 7), max_size=12)


@given(sizes_of_blocks, st.integers(1, 9))
def test_regroup_keeps_every_row_in_order(sizes: list[int], size: int) -> None:
    out = list(regroup(blocks(sizes), size))
    assert [int(n) for block in out for n in block["image"]] == list(range(sum(sizes)))
    assert all(len(block["id"]) == size for block in out[:-1])
    assert all(0 < len(block["id"]) <= size for block in out[-1:])


@given(sizes_of_blocks, st.integers(1, 9))
def test_mix_moves_rows_within_their_window_only(sizes: list[int], window: int) -> None:
    mixed = list(mix(blocks(sizes), window, np.random.default_rng(0)))
    numbers = [int(n) for block in mixed for n in block["image"]]
    assert sorted(numbers) == list(range(sum(sizes)))
    assert all(place // window == number // window for place, number in enumerate(numbers))
    assert all(str(n) == key for b in mixed for key, n in zip(b["id"], b["image"], strict=True))


def test_mix_shuffles() -> None:
    one, other = (
        [
            int(n)
            for block in mix(blocks([40]), 40, np.random.default_rng(s))
            for n in block["image"]
        ]
        for s in (0, 1)
    )
    assert one != other != list(range(40))


@given(sizes_of_blocks, st.lists(st.integers(0, 9)))
def test_taker_takes_exact_numbers_and_loses_none(sizes: list[int], takes: list[int]) -> None:
    taker, taken = Taker(blocks(sizes)), 0
    for count in takes:
        if taken + count > sum(sizes):
            break
        numbers = [int(n) for block in taker.take(count) for n in block["image"]]
        assert numbers == list(range(taken, taken + count))
        taken += count


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    root = tmp_path_factory.mktemp("set")
    return str(root), tiny.write(root)


def first_piece(manifest: Manifest, split: str = "val") -> Piece:
    return row_groups(manifest, split)[0]


def test_a_piece_is_its_rows_framed(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    piece = replace(first_piece(facts), start=1, stop=3)
    block = read_piece(root, piece, Showing(24, labels=True))
    assert block["id"].tolist() == ["val-01", "val-02"]
    for index in (1, 2):
        row, view = tiny.row("val", index), evaluation_view(tiny.SIDE, tiny.SIDE, size=24)
        assert row.label is not None
        image = view_image(decode_image(row.image), view)
        assert np.array_equal(block["image"][index - 1], image)
        label = view_label(decode_label(row.label), view)
        assert np.array_equal(block["label"][index - 1], label)


def test_without_labels_wanted_none_come(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    assert read_piece(root, first_piece(facts), Showing(24)).keys() == {"id", "image"}


def test_crops_depend_on_seed_epoch_and_image_alone(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    piece = first_piece(facts)
    showing = Showing(16, training=True, crop_scale=0.3, flip=True, seed=1)
    whole = read_piece(root, piece, showing)["image"]
    part = read_piece(root, replace(piece, start=2), showing)["image"]
    assert np.array_equal(part, whole[2:])
    for changed in (
        read_piece(root, replace(piece, epoch=1), showing),
        read_piece(root, piece, replace(showing, seed=2)),
    ):
        assert not np.array_equal(changed["image"], whole)


def mixed_set(root: Path) -> Piece:
    (shard,) = write_split(root, "val", [tiny.row("val", i, labelled=i % 2 == 1) for i in range(4)])
    return Piece(shard.path, 0, 0, 4)


def test_rows_without_a_label_are_left_out_where_labels_are_wanted(tmp_path: Path) -> None:
    piece = mixed_set(tmp_path)
    labelled = read_piece(str(tmp_path), piece, Showing(16, labels=True))
    assert labelled["id"].tolist() == ["val-01", "val-03"]
    assert labelled["label"].shape == (2, 16, 16)
    assert len(read_piece(str(tmp_path), piece, Showing(16))["id"]) == 4


def test_a_piece_without_any_label_is_empty_but_shaped(tmp_path: Path) -> None:
    piece = replace(mixed_set(tmp_path), stop=1)
    block = read_piece(str(tmp_path), piece, Showing(16, labels=True))
    assert (block["id"].shape, block["image"].shape) == ((0,), (0, 3, 16, 16))
    assert block["label"].shape == (0, 16, 16)
    assert block["label"].dtype == np.int32


@pytest.mark.parametrize("column", ["image", "label"])
def test_damaged_bytes_name_shard_and_image(tmp_path: Path, column: str) -> None:
    changed: dict[str, Any] = {"id": "broken", column: b"\x89PNG\r\n\x1a\nnothing"}
    bad = replace(tiny.row("val", 0), **changed)
    (shard,) = write_split(tmp_path, "val", [tiny.row("val", 1), bad])
    with pytest.raises(UserError) as caught:
        read_piece(str(tmp_path), Piece(shard.path, 0, 0, 2), Showing(16, labels=True))
    assert shard.path in str(caught.value)
    assert "'broken' does not decode" in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.parquet: cannot be read"):
        read_piece(str(tmp_path), Piece("gone.parquet", 0, 0, 2), Showing(16))


def test_the_plain_stream_reads_pieces_in_order(manifest: tuple[str, Manifest]) -> None:
    root, facts = manifest
    pieces = evaluation_plan(facts, "train", 1, 2)
    ids = [key for block in stream_here(root, pieces, Showing(16)) for key in block["id"]]
    assert ids == [f"train-{i:02d}" for i in range(7, 14)]
