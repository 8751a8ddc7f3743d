"""The table of neighbours: exact, whatever the block, and clear about too few images."""

import pytest
import torch
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.ops.neighbours import nearest_neighbours


def naive(rows: Tensor, k: int) -> list[list[int]]:
    """Sorts all rows by cosine, the row itself before its equals."""
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2).tolist()
    return [
        sorted(range(len(rows)), key=lambda j, i=i: (j != i, -cosines[i][j]))[:k]  # type: ignore[misc]
        for i in range(len(rows))
    ]


@pytest.mark.parametrize("block", [1, 3, 20, 1000])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_table_against_sorting(block: int, k: int) -> None:
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    rows *= torch.linspace(0.1, 10, 20)[:, None]
    assert nearest_neighbours(rows, k, block=block).tolist() == naive(rows, k)


def test_equal_rows_come_after_oneself() -> None:
    rows = torch.ones(6, 3)
    rows[4] = 0
    table = nearest_neighbours(rows, 2)
    assert table[:, 0].tolist() == list(range(6))
    assert all(first != second for first, second in table.tolist())


def test_more_neighbours_than_images() -> None:
    with pytest.raises(UserError, match=r"7 neighbours .* only 5 images\. Lower method\.neigh"):
        nearest_neighbours(torch.ones(5, 2), 8)
