"""The first of the largest values is found as torch's `argmax` finds it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usseg_ray.ops.largest import argmax

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    among=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 2**16),
)
def test_ties_go_to_the_first(kind: torch.dtype, shape: list[int], among: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randint(among, shape, generator=random).to(kind)
    for dim in range(-1, len(shape)):
        assert torch.equal(argmax(values, dim), values.argmax(dim))


def test_what_is_not_a_number_is_the_largest() -> None:
    values = torch.tensor([[1.0, float("nan"), 9.0], [float("-inf"), float("-inf"), -9.0]])
    assert argmax(values, 1).tolist() == values.argmax(1).tolist() == [1, 2]
    assert argmax(values, 0).tolist() == values.argmax(0).tolist()


def test_maps_of_channels_in_any_layout() -> None:
    values = torch.randint(3, (2, 42, 33, 31)).float()
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(argmax(values.to(memory_format=layout), 1), values.argmax(1))
