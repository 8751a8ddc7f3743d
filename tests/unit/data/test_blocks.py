from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from usseg_ray.data.blocks import Block, Taker, batches_by_number, join, mix, regroup


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
    mixed = list(mix(Taker(blocks(sizes)), sum(sizes), window, np.random.default_rng(0)))
    numbers = [int(n) for block in mixed for n in block["image"]]
    assert sorted(numbers) == list(range(sum(sizes)))
    assert all(place // window == number // window for place, number in enumerate(numbers))
    assert all(str(n) == key for b in mixed for key, n in zip(b["id"], b["image"], strict=True))


def test_mix_shuffles() -> None:
    one, other = (
        [
            int(n)
            for block in mix(Taker(blocks([40])), 40, 40, np.random.default_rng(s))
            for n in block["image"]
        ]
        for s in (0, 1)
    )
    assert one != other != list(range(40))


@given(sizes_of_blocks, st.integers(1, 9))
def test_mix_is_a_permutation_of_each_window(sizes: list[int], window: int) -> None:
    rows, random = sum(sizes), np.random.default_rng(5)
    orders = [
        start + random.permutation(min(window, rows - start)) for start in range(0, rows, window)
    ]
    mixed = list(mix(Taker(blocks(sizes)), rows, window, np.random.default_rng(5)))
    assert [block["image"].tolist() for block in mixed] == [order.tolist() for order in orders]


@given(sizes_of_blocks, st.lists(st.integers(0, 9)))
def test_taker_takes_exact_numbers_and_loses_none(sizes: list[int], takes: list[int]) -> None:
    taker, taken = Taker(blocks(sizes)), 0
    for count in takes:
        if taken + count > sum(sizes):
            break
        numbers = [int(n) for block in taker.take(count) for n in block["image"]]
        assert numbers == list(range(taken, taken + count))
        taken += count


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9), st.integers(1, 7))
def test_batches_follow_row_numbers_alone(kept: list[bool], size: int, step: int) -> None:
    numbers = np.flatnonzero(kept)
    cuts = [numbers[start : start + step] for start in range(0, len(numbers), step)]
    parts: list[Block] = [{"id": part.astype(str).astype(object), "number": part} for part in cuts]
    found = [block["number"].tolist() for block in batches_by_number(parts, size)]
    whole = [numbers[numbers // size == batch].tolist() for batch in range(40 // size + 1)]
    assert found == [batch for batch in whole if batch]


def test_a_single_block_is_joined_without_a_copy() -> None:
    (one,) = blocks([3])
    assert join([one]) is one
    whole = join(list(blocks([3, 2])))
    assert whole["image"].tolist() == list(range(5))
    assert whole["id"].tolist() == [str(number) for number in range(5)]
