"""One process: statistics are the identity. Several: `tests/distributed`."""

import pytest
import torch
from torch import Tensor

from usseg_ray.core.distributed import (
    all_gather,
    all_sum,
    average_gradients,
    broadcast,
    rank,
    row_counts,
    shared_generator,
    world_size,
)
from usseg_ray.core.keys import key_seed


def test_alone() -> None:
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.parametrize("value", [torch.tensor([2**53 + 1]), torch.rand(3, 2), torch.zeros(0, 4)])
def test_sum_and_gather_are_the_identity(value: Tensor) -> None:
    assert torch.equal(all_sum(value), value)
    assert torch.equal(all_gather(value), value)
    assert row_counts(value) == [len(value)]


def test_a_sum_is_a_new_tensor() -> None:
    value = torch.ones(2)
    all_sum(value).add_(1)
    assert value.tolist() == [1, 1]


def test_broadcast_returns_the_same_object() -> None:
    value = torch.ones(2)
    assert broadcast(value) is value


def test_gradients_stay() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    (3 * parameter).sum().backward()
    average_gradients([parameter, torch.nn.Parameter(torch.ones(1))])
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3, 3]


def test_a_generator_depends_on_its_key_alone() -> None:
    torch.manual_seed(1)
    first = torch.rand(4, generator=shared_generator(0, "a", 2))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(4, generator=shared_generator(0, "a", 2)), first)
    assert not torch.equal(torch.rand(4, generator=shared_generator(0, "a", 3)), first)
    assert shared_generator(0, "a").initial_seed() == key_seed(0, "a")
