import pytest
import torch

from usseg_ray.ops.counting import occurrences


@pytest.mark.parametrize("shape", [(0,), (1,), (999,), (3, 40, 5)])
def test_counts_are_those_of_bincount(shape: tuple[int, ...]) -> None:
    numbers = torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(0))
    found = occurrences(numbers, 9)
    assert torch.equal(found, numbers.flatten().bincount(minlength=9))
    assert found.dtype == torch.int64


def test_a_number_above_all_is_no_count() -> None:
    with pytest.raises(RuntimeError):
        occurrences(torch.tensor([9]), 9)
