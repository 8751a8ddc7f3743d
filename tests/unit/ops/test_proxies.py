"""Proxies move to where tokens are dense; circles follow; the loss takes what they leave."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.ops.proxies import Partners, Zones, find_partners, proxy_contrast

STILL = Zones(0.9, 0.0, 0, 3.0, 3.0)


def at(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def partners(positives: list[list[int]], compared: list[list[int]]) -> Partners:
    return Partners(
        torch.tensor(positives).bool(), torch.tensor(compared).bool(), torch.zeros(len(positives))
    )


def test_without_rounds_the_anchor_itself_decides() -> None:
    found = find_partners(at(0, 10, 20, 60, 100), torch.tensor([0, 2]), STILL)
    # cos 10 and cos 20 are above 0.9, cos 40 is not; below 0 is what is beyond a right angle.
    assert found.positives.int().tolist() == [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert found.compared.int().tolist() == [[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]
    assert found.moved.tolist() == [0, 0]


def test_a_proxy_moves_to_the_mean_of_its_positives() -> None:
    tokens = at(0, 20, 25, 42)
    one = find_partners(tokens, torch.tensor([0]), STILL._replace(rounds=1, positive_step=1e9))
    mean = normalize(tokens[:3].sum(0), dim=0)
    assert one.moved.item() == pytest.approx(1 - float(tokens[0] @ mean), abs=1e-6)
    # From 15 degrees, 42 are 27 away and out; a second round goes on from there.
    assert one.positives.int().tolist() == [[0, 1, 1, 0]]
    two = find_partners(tokens, torch.tensor([0]), Zones(0.88, 0.0, 2, 1e9, 3.0))
    assert two.positives.int().tolist() == [[0, 1, 1, 1]]


def test_circles_widen_by_what_a_proxy_moved() -> None:
    tokens, anchor = at(0, 20, 25, 42, 101), torch.tensor([0])
    moved = find_partners(tokens, anchor, STILL._replace(rounds=1)).moved.item()
    cosine = float(tokens[3] @ normalize(tokens[:3].sum(0), dim=0))
    enough = moved / (0.9 - cosine)
    for step, inside in ((enough * 0.99, 1), (enough * 1.01, 0)):
        found = find_partners(tokens, anchor, STILL._replace(rounds=1, positive_step=step))
        assert found.positives[0, 3] == inside
    away = float(tokens[4] @ normalize(tokens[:3].sum(0), dim=0))
    enough = moved / (away + 0.1)
    for step, outside in ((enough * 0.99, 1), (enough * 1.01, 0)):
        zones = Zones(0.9, -0.1, 1, 1e9, step)
        assert find_partners(tokens, anchor, zones).compared[0, 4] == outside


def test_tokens_without_direction_have_no_positives() -> None:
    found = find_partners(torch.zeros(4, 2), torch.tensor([1]), STILL._replace(rounds=2))
    assert found.moved.tolist() == [2]
    assert found.positives.sum() == 0


def test_contrast_of_one_anchor() -> None:
    codes = at(0, 60, 90, 180)
    found = proxy_contrast(
        codes, torch.tensor([0]), partners([[0, 1, 0, 0]], [[0, 1, 0, 1]]), temperature=0.5
    )
    near, far = 0.5 / 0.5, -1 / 0.5
    expected = -(0.5 / 0.07) * (near - math.log(math.exp(near) + math.exp(far)))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_anchors_without_positives_do_not_count() -> None:
    codes = at(0, 60, 90, 180).requires_grad_()
    one = partners([[0, 1, 0, 0]], [[0, 1, 0, 1]])
    both = partners([[0, 1, 0, 0], [0, 0, 0, 0]], [[0, 1, 0, 1], [1, 0, 0, 0]])
    alone = proxy_contrast(codes, torch.tensor([0]), one, 0.5)
    torch.testing.assert_close(proxy_contrast(codes, torch.tensor([0, 2]), both, 0.5), alone)
    nothing = partners([[0, 0, 0, 0]], [[0, 0, 0, 0]])
    none = proxy_contrast(codes, torch.tensor([3]), nothing, 0.5)
    none.backward()
    assert none.item() == 0
    assert codes.grad is not None
    assert not codes.grad.any()
