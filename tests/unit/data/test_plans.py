from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usseg_ray.core.errors import UserError
from usseg_ray.data.manifest import Manifest, ShardInfo, split_totals
from usseg_ray.data.plans import (
    Piece,
    WithPartners,
    cut,
    dealt_plan,
    evaluation_plan,
    row_groups,
    spread,
    training_plan,
    walks_in_epoch,
)

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


def test_training_pieces_carry_their_walk() -> None:
    plan = training_plan(SMALL, "train", seed=0, epoch=3, rows=7, rank=1, world=2)
    assert {piece.walk for piece in plan} == {3}
    longer = training_plan(SMALL, "train", seed=0, epoch=3, rows=45, rank=0, world=1)
    assert sorted({piece.walk for piece in longer}) == [9, 10, 11]


def test_an_epoch_begins_as_many_walks_as_its_rows_take() -> None:
    manifest = described((5, 5), (4,))
    assert [walks_in_epoch(manifest, "train", rows) for rows in (1, 14, 15, 43)] == [1, 1, 2, 4]


def test_pieces_know_their_place_in_the_split() -> None:
    everything = rows(row_groups(SMALL, "train"))
    for plan in (
        row_groups(SMALL, "train"),
        cut(row_groups(SMALL, "train"), 3, 17),
        training_plan(SMALL, "train", seed=0, epoch=0, rows=13, rank=1, world=2),
    ):
        for piece in plan:
            numbers = range(piece.number, piece.number + piece.rows)
            assert [everything[number] for number in numbers] == rows([piece])


@every_world
@pytest.mark.parametrize("size", [1, 4, 7, 50])
def test_evaluation_never_parts_a_batch(world: int, size: int) -> None:
    total, end = len(rows(row_groups(SMALL, "train"))), 0
    for rank in range(world):
        for piece in evaluation_plan(SMALL, "train", rank, world, size):
            assert piece.number == end
            end += piece.rows
        assert end % size == 0 or end == total
    assert end == total


@given(shard_sizes, st.integers(0, 60), st.integers(0, 60))
def test_cut_is_a_slice(groups: list[tuple[int, ...]], start: int, stop: int) -> None:
    pieces = row_groups(described(*groups), "train")
    assert rows(cut(pieces, start, stop)) == rows(pieces)[start:stop]


def test_cut_keeps_the_walk_and_drops_empty_pieces() -> None:
    pieces = [Piece("a", 0, 2, 5, walk=4), Piece("a", 1, 0, 2, walk=4)]
    assert cut(pieces, 1, 3) == [Piece("a", 0, 3, 5, number=1, walk=4)]


def dealt(
    manifest: Manifest, size: int, rank: int = 0, world: int = 1, walk: int = 0
) -> list[Rows]:
    parts = dealt_plan(
        manifest, "train", seed=0, walk=walk, batch_size=size, rank=rank, world=world
    )
    assert all(piece.walk == walk for part in parts for piece in part)
    return [rows(part) for part in parts]


@every_world
@pytest.mark.parametrize("size", [1, 4, 6, 20, 50])
def test_dealt_batches_do_not_depend_on_the_workers(world: int, size: int) -> None:
    alone = [batch for batch in dealt(SMALL, size) if len(batch) >= world]
    parts = [dealt(SMALL, size, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {len(alone)}
    assert [list(chain(*shares)) for shares in zip(*parts, strict=True)] == alone
    for shares in zip(*parts, strict=True):
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_dealt_walk_has_every_row_once_in_an_order_of_its_own() -> None:
    one, other = (list(chain(*dealt(SMALL, 6, walk=walk))) for walk in (0, 1))
    assert sorted(one) == sorted(other) == sorted(rows(row_groups(SMALL, "train")))
    assert one != other


def test_partners_are_neighbours_but_never_the_row_itself() -> None:
    everything = rows(row_groups(SMALL, "train"))
    table = (np.arange(20)[:, None] + np.arange(4)) % 20
    plan = training_plan(SMALL, "train", seed=0, epoch=2, rows=60, rank=0, world=1)
    lazy = WithPartners(plan, SMALL, "train", table, seed=3)
    paired = list(lazy)
    assert len(lazy) == len(plan)
    assert lazy[1:3] == paired[1:3]
    assert [(p.shard, p.row_group, p.start, p.stop) for p in paired] == [
        (p.shard, p.row_group, p.start, p.stop) for p in plan
    ]
    partners = [partner for piece in paired for partner in piece.partners]
    steps = {
        (partner.number - everything.index(row)) % 20
        for row, partner in zip(rows(plan), partners, strict=True)
    }
    assert steps == {1, 2, 3}
    assert all(everything[partner.number] == partner[:3] for partner in partners)
    assert list(WithPartners(plan, SMALL, "train", table, seed=3)) == paired
    assert list(WithPartners(plan, SMALL, "train", table, seed=4)) != paired


@given(total=st.integers(1, 500), count=st.integers(1, 64))
def test_rows_that_lie_evenly_over_a_split(total: int, count: int) -> None:
    rows = spread(total, count)
    assert len(rows) == min(total, count)
    assert rows == sorted(set(rows))
    assert 0 <= rows[0] <= rows[-1] < total
    steps = np.diff(rows)
    assert not len(steps) or steps.max() - steps.min() <= 1
    assert set(spread(total, count)) <= set(spread(total, 4 * count))


@given(shard_sizes, st.integers(1, 12), st.integers(1, 5))
def test_dealt_parts_are_those_of_cutting_the_whole_walk(
    sizes: list[tuple[int, ...]], batch: int, world: int
) -> None:
    manifest = described(*sizes)
    whole = [row for part in dealt(manifest, 1) for row in part]
    for rank in range(world):
        expected = []
        for start in range(0, len(whole), batch):
            size = min(batch, len(whole) - start)
            first, last = (start + part * size // world for part in (rank, rank + 1))
            if size >= world:
                expected.append(whole[first:last])
        assert dealt(manifest, batch, rank, world) == expected
