"""Pooling over regions, and their boxes."""

import torch

from usseg_ray.methods.parts.regions import bounding_boxes, pool_regions


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
