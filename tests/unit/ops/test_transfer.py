from collections.abc import Iterator

import pytest
import torch

from usseg_ray.ops.transfer import one_ahead, sending, sent

CPU = torch.device("cpu")


def test_on_a_cpu_nothing_is_copied() -> None:
    values = torch.arange(3.0)
    assert sent(values, CPU) is values
    assert sending(values, CPU)() is values


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_one_is_made_ahead_of_that_which_is_given(count: int) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(count):
            made.append(number)
            yield number

    given = []
    for number in one_ahead(items()):
        given.append(number)
        assert len(made) == min(number + 2, count)
    assert given == made == list(range(count))


def test_none_is_an_item() -> None:
    assert list(one_ahead([None, None])) == [None, None]


def test_what_making_raises_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("damaged")

    walk = one_ahead(items())
    assert next(walk) == 0
    with pytest.raises(ValueError, match="damaged"):
        next(walk)


def test_a_walk_that_is_broken_off_ends_its_source() -> None:
    ended: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            ended.append(True)

    walk = one_ahead(items())
    assert next(walk) == 0
    assert not ended
    del walk
    assert ended
