"""Crops keep their place, their gradient and their order."""

import pytest
import torch
from torch import Tensor

from usseg_ray.methods.parts.geometry import crop_and_flip, crop_box


def crops(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_whole_map_is_left_as_it_is() -> None:
    maps = torch.rand(2, 3, 6, 4)
    flip = torch.tensor([False, True])
    shown = crop_and_flip(maps, crops((1, 0, 0), (1, 0.7, 0.2)), flip, (6, 4))
    assert torch.equal(shown[0], maps[0])
    assert torch.equal(shown[1], maps[1].flip(2))


def test_place_follows_the_fractions() -> None:
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    for row, column, corner in ((0, 0, 0.0), (1, 0, 32.0), (0, 1, 4.0), (1, 1, 36.0)):
        shown = crop_and_flip(maps, crops((0.5, row, column)), torch.tensor([False]), (4, 4))
        assert shown[0, 0, 0, 0] == corner


def test_boxes_truncate_sides_and_round_half_to_even() -> None:
    assert crop_box(10, 10, 0.79, 0.5, 0.5) == (2, 2, 7, 7)
    assert crop_box(10, 20, 0.5, 0.5, 0.25) == (2, 2, 5, 10)


def test_a_crop_has_at_least_one_pixel() -> None:
    shown = crop_and_flip(torch.rand(1, 2, 3, 3), crops((0.1, 1, 1)), torch.tensor([True]), (2, 2))
    assert shown.shape == (1, 2, 2, 2)
    assert shown.isfinite().all()


def test_gradient_stays_inside_the_crop() -> None:
    maps = torch.rand(1, 1, 8, 8, requires_grad=True)
    crop_and_flip(maps, crops((0.5, 0, 1)), torch.tensor([True]), (8, 8)).sum().backward()
    assert maps.grad is not None
    assert maps.grad[0, 0, :4, 4:].all()
    assert maps.grad.sum() == pytest.approx(64)
    assert maps.grad[0, 0, :4, 4:].sum() == pytest.approx(64)


def test_no_image_stays_no_image() -> None:
    empty = crop_and_flip(
        torch.zeros(0, 5, 8, 8), crops().view(0, 3), torch.zeros(0).bool(), (2, 3)
    )
    assert empty.shape == (0, 5, 2, 3)
