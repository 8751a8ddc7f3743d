"""Principal masks on images whose parts are known; their definition is held by tests/numerics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from usseg_ray.ops.principal_masks import (
    MOST,
    NONE,
    principal_direction,
    principal_masks,
    usual_in_masks,
)

SIDE = 6


def parts(*directions: list[float]) -> Tensor:
    """Tokens (1, D, 6, 6): columns of equal width, each of one direction."""
    columns = torch.tensor(directions).repeat_interleave(SIDE // len(directions), 0)
    return columns.T[None, :, None, :].expand(1, -1, SIDE, -1).clone()


@pytest.mark.parametrize("centre", [False, True])
def test_every_part_is_a_mask(centre: bool) -> None:
    tokens = parts([3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0])
    masks = principal_masks(tokens, 0.5, explained=1.0, centre=centre)[0]
    assert torch.equal(masks, masks[:1].expand(SIDE, -1))
    assert sorted(masks[0, ::2].tolist()) == [1, 2, 3]
    assert torch.equal(masks[0, ::2], masks[0, 1::2])


def test_little_left_is_not_looked_at() -> None:
    tokens = parts([3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0])
    masks = principal_masks(tokens, 0.5, explained=0.6)
    assert sorted(masks[0, 0, ::2].tolist()) == [0, 1, 2]


def test_psi_decides_what_is_one() -> None:
    tokens = parts([1.0, 0.0], [0.8, 0.6])
    assert principal_masks(tokens, 0.7).unique().tolist() == [1]
    assert principal_masks(tokens, 0.9).unique().tolist() == [1, 2]


def test_centred_cosines_tell_parts_that_are_all_alike() -> None:
    tokens = parts([1.0, 0.0], [0.0, 1.0]) + 50
    assert principal_masks(tokens, 0.6).unique().tolist() == [1]
    assert principal_masks(tokens, 0.6, centre=True).unique().tolist() == [1, 2]


def test_single_tokens_join_what_surrounds_them() -> None:
    tokens = parts([1.0, 0.0])
    tokens[0, :, 2, 2] = torch.tensor([0.0, 1.0])
    masks = principal_masks(tokens, 0.5, explained=1.0)
    assert len(masks.unique()) == 1
    assert masks[0, 2, 2] > 0


def test_scale_mirroring_and_company_change_nothing() -> None:
    tokens = torch.randn(3, 8, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    tokens[:, :, :, 3:] += 2 * torch.linspace(-1, 1, 8)[:, None, None]
    masks = principal_masks(tokens, 0.3)
    assert len(masks.unique()) > 2
    assert torch.equal(principal_masks(7 * tokens, 0.3), masks)
    assert torch.equal(principal_masks(tokens.flip(3), 0.3), masks.flip(2))
    assert torch.equal(principal_masks(tokens[1:2], 0.3)[0], masks[1])


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("centre", [False, True])
def test_an_image_of_equal_tokens_is_one_mask(value: float, centre: bool) -> None:
    masks = principal_masks(torch.full((1, 4, 5, 5), value), 0.4, centre=centre)
    assert masks.unique().tolist() == [1]


def test_numbers_fit_into_a_byte() -> None:
    tokens = torch.eye(400).view(1, 400, 20, 20)
    assert principal_masks(tokens, 0.5, explained=1.0).max() <= MOST


def test_direction_is_that_of_a_singular_value_decomposition() -> None:
    random = torch.Generator().manual_seed(1)
    spread = torch.tensor([5.0, 2.0, 1.0, 0.5])
    rows = torch.randn(2, 60, 4, generator=random) * spread + 3
    kept = torch.rand(2, 60, generator=random) < 0.7
    found = principal_direction(rows, kept)
    for own, keep, direction in zip(rows, kept, found, strict=True):
        exact = own[keep].double().numpy()
        first = np.linalg.svd(exact - exact.mean(0))[2][0]
        assert abs(first @ direction.double().numpy()) == pytest.approx(1, abs=1e-3)


def test_every_mask_has_its_most_frequent_id() -> None:
    masks = torch.tensor([[[1, 1, 1, 0], [2, 2, 2, 0]], [[1, 1, 1, 1], [1, 1, 3, 3]]])
    ids = torch.tensor([[[4, 4, 0, 0], [0, 2, 2, 1]], [[3, 3, 1, 1], [3, 0, 4, 4]]])
    expected = [[[4, 4, 4, NONE], [2, 2, 2, NONE]], [[3, 3, 3, 3], [3, 3, 4, 4]]]
    assert usual_in_masks(ids, masks, 5).tolist() == expected
