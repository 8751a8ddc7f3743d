"""Averaging within an image, against the formula written out vector by vector."""

import math

import pytest
import torch
from torch import Tensor

from usseg_ray.ops import context
from usseg_ray.ops.context import averaged, unlikeness


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(image: Tensor, reach: float) -> Tensor:
    """The formula for one image, in loops."""
    _, height, width = image.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    unit = {place: image[:, *place] / image[:, *place].norm() for place in places}
    beside = [(p, q) for p in places for q in ((p[0] + 1, p[1]), (p[0], p[1] + 1)) if q in unit]
    tau = reach * sum(1 - float(unit[p] @ unit[q]) for p, q in beside) / len(beside)
    result = torch.zeros_like(image)
    for here in places:
        weights = {there: math.exp(float(unit[here] @ unit[there]) / tau) for there in places}
        for there, weight in weights.items():
            result[:, *here] += weight / sum(weights.values()) * unit[there]
    return result


@pytest.mark.parametrize("reach", [0.3, 0.75, 2.0])
def test_as_written_out(reach: float) -> None:
    given = maps(3, 5, 3, 4) + 1
    expected = torch.stack([written_out(image, reach) for image in given])
    torch.testing.assert_close(averaged(given, reach), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(averaged(given.float(), reach), expected.float())


def test_images_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given = maps(5, 4, 3, 3)
    whole = averaged(given)
    monkeypatch.setattr(context, "_PAIRS_AT_A_TIME", 2 * 81)
    torch.testing.assert_close(averaged(given), whole)
    torch.testing.assert_close(averaged(given[3:4]), whole[3:4])


def test_lengths_and_order_of_channels_do_not_count() -> None:
    given, order = maps(2, 6, 4, 4), [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(averaged(7 * given), averaged(given))
    torch.testing.assert_close(averaged(given[:, order]), averaged(given)[:, order])


def test_the_further_it_reaches_the_nearer_to_the_mean_direction() -> None:
    given = maps(1, 4, 5, 5)
    unit = given / given.norm(dim=1, keepdim=True)
    mean = unit.mean((2, 3), keepdim=True)
    far = [float((averaged(given, reach) - mean).norm()) for reach in (0.1, 0.5, 2.0, 1e6)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-5


def test_two_even_halves_are_kept_apart() -> None:
    given = torch.zeros(1, 2, 6, 6)
    given[:, 0, :, :3] = given[:, 1, :, 3:] = 1
    noisy = given + 0.1 * maps(1, 2, 6, 6).float()

    def off(found: Tensor) -> float:
        return float((found / found.norm(dim=1, keepdim=True) - given).norm())

    assert off(averaged(noisy)) < off(noisy) / 2


def test_equal_neighbours_stay_what_they_are() -> None:
    flat = torch.full((1, 3, 4, 4), 2.0)
    assert float(unlikeness(flat / flat.norm(dim=1, keepdim=True))) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(averaged(flat), flat / flat.norm(dim=1, keepdim=True))
    single = maps(2, 3, 1, 1)
    torch.testing.assert_close(averaged(single), single / single.norm(dim=1, keepdim=True))
