"""Pooling over regions, what concepts settle to, and regions' boxes."""

import pytest
import torch
from torch import Tensor

from usseg_ray.methods.parts.regions import bounding_boxes, pool_regions, settled
from usseg_ray.ops import modularity
from usseg_ray.ops.modularity import cosine


def test_sums_and_counts_against_loops() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(2, 9, 3, dtype=torch.float64, generator=random)
    labels = torch.randint(0, 3, (2, 9), generator=random)
    sums, counts = pool_regions(values, labels, 4)
    for image in range(2):
        for region in range(4):
            inside = labels[image] == region
            assert counts[image, region] == inside.sum()
            torch.testing.assert_close(sums[image, region], values[image, inside].sum(0))
    assert counts[:, 3].tolist() == [0, 0]


def test_a_box_ends_where_its_region_does() -> None:
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1, 4] = mask[3, 2] = True
    masks = torch.stack([mask, torch.ones(5, 7, dtype=torch.bool)])
    assert bounding_boxes(masks).tolist() == [[2, 1, 5, 4], [0, 0, 7, 5]]


def plainly_settled(tokens: Tensor, concepts: Tensor, times: int) -> Tensor:
    """Settles with the definition of the cosine, which scales tokens each time."""
    for _ in range(times):
        labels = cosine(tokens, concepts).argmax(2)
        sums, counts = pool_regions(
            torch.nn.functional.normalize(tokens, dim=2), labels, concepts.shape[1]
        )
        concepts = torch.where(counts[:, :, None] > 0, sums, concepts)
    return concepts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_settled_to_the_bit_with_tokens_scaled_once(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 50, 15, dtype=dtype, generator=random)
    concepts = torch.randn(3, 5, 15, dtype=dtype, generator=random)
    expected = plainly_settled(tokens, concepts, 10)
    scaled = list[torch.Size]()

    def counted(rows: Tensor, **options: float) -> Tensor:
        scaled.append(rows.shape)
        return torch.nn.functional.normalize(rows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(modularity, "normalize", counted)
    assert torch.equal(settled(tokens, concepts, 10), expected)
    assert scaled.count(tokens.shape) == 1
