"""The clusterbook loss against its definition; official vectors are in tests/numerics."""

from typing import Any

import pytest
import torch
from torch import Tensor

from usseg_ray.methods.parts import clusterbook as module
from usseg_ray.methods.parts.clusterbook import (
    WindowSample,
    best_agreement,
    clusterbook_losses,
    draw_windows,
)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(7))


def naive_loss(tokens: Tensor, codebook: Tensor, temperature: float) -> float:
    """The definition for one image, pair by pair and code by code."""

    def cos(a: Tensor, b: Tensor) -> float:
        return max(0.0, float(a @ b / (a.norm() * b.norm())))

    count = len(tokens)
    edge = [
        [0.0 if i == j else cos(tokens[i], tokens[j]) for j in range(count)] for i in range(count)
    ]
    degree = [sum(row) for row in edge]
    total = sum(degree)
    loss = 0.0
    for i in range(count):
        for j in range(count):
            products = torch.tensor([cos(tokens[i], c) * cos(tokens[j], c) for c in codebook])
            agree = float((products / temperature).tanh().max())
            loss -= (edge[i][j] - degree[i] * degree[j] / total) / total * agree
    return loss


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_against_loops(temperature: float) -> None:
    tokens, codebook = draw(2, 9, 5), draw(6, 5).flip(0)
    losses = clusterbook_losses(tokens, codebook, temperature=temperature)
    for loss, image in zip(losses, tokens, strict=True):
        assert float(loss) == pytest.approx(naive_loss(image, codebook, temperature), abs=1e-6)


def test_gradient_by_differences() -> None:
    tokens, codebook = draw(2, 7, 5), draw(4, 5).flip(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda codes: clusterbook_losses(tokens, codes, temperature=0.5), (codebook,)
    )


@pytest.mark.parametrize("num_codes", [1, 2, 5, 16, 27, 100])
@pytest.mark.parametrize("products", [1, 64, 10**6])
def test_best_agreement_against_the_full_tensor(
    num_codes: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PRODUCTS", {"cpu": products, "other": products})
    positive = draw(11, num_codes).clamp(min=0)
    full = positive[:, None] * positive[None]
    pair = best_agreement(positive)
    assert torch.equal(torch.stack(pair[:2]), torch.triu_indices(11, 11))
    assert torch.equal(pair.product, full.amax(2)[pair.first, pair.second])
    assert torch.equal(pair.winner, full.argmax(2)[pair.first, pair.second])


def test_the_first_code_wins_a_tie() -> None:
    positive = draw(6, 40, dtype=torch.float32).abs()
    twice = torch.cat([positive, positive], dim=1)
    assert int(best_agreement(twice).winner.max()) < 40
    assert not best_agreement(torch.zeros(4, 9)).winner.any()


def test_a_gradient_keeps_lengths_and_leaves_losers_alone() -> None:
    tokens, codebook = draw(3, 8, 5), draw(6, 5).flip(0)
    tokens = tokens.abs()
    # No token has a positive cosine to this code.
    codebook[2] = -torch.ones(5)
    codebook.requires_grad_()
    clusterbook_losses(tokens, codebook).sum().backward()
    assert codebook.grad is not None
    assert codebook.grad.any()
    along = (codebook.grad * codebook.detach()).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)
    assert not codebook.grad[2].any()


def test_tokens_get_no_gradient_and_no_pair_is_kept() -> None:
    tokens = draw(2, 30, 5, dtype=torch.float32).requires_grad_()
    codebook = draw(9, 5, dtype=torch.float32).requires_grad_()
    losses = clusterbook_losses(tokens, codebook)
    node: Any = losses.grad_fn
    assert [kept.shape for kept in node.saved_tensors] == [(2, 30, 9)]
    losses.sum().backward()
    assert tokens.grad is None


@pytest.mark.parametrize(
    "tokens", [torch.zeros(1, 4, 3), torch.ones(1, 4, 3), torch.ones(1, 1, 3), torch.eye(3)[None]]
)
def test_images_without_structure_are_finite(tokens: Tensor) -> None:
    codebook = torch.cat([torch.eye(3), torch.zeros(1, 3)]).requires_grad_()
    loss = clusterbook_losses(tokens, codebook)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert codebook.grad is not None
    assert codebook.grad.isfinite().all()


def test_codes_find_planted_groups() -> None:
    random = torch.Generator().manual_seed(1)
    centres = torch.eye(3, 8)
    groups = torch.arange(3).repeat(8)
    tokens = centres[groups] + 0.05 * torch.randn(4, 24, 8, generator=random)
    codebook = torch.nn.Parameter(0.1 * torch.randn(12, 8, generator=random))
    adam = torch.optim.Adam([codebook], lr=2e-2)
    for _ in range(50):
        adam.zero_grad()
        clusterbook_losses(tokens, codebook).mean().backward()
        adam.step()
    nearest = (tokens @ torch.nn.functional.normalize(codebook.detach(), dim=1).mT).argmax(2)
    owners = [set(nearest[:, groups == group].flatten().tolist()) for group in range(3)]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]


@pytest.mark.parametrize(
    ("grid", "side", "picked"),
    [
        ((40, 40), 4, (10, 10)),
        ((11, 9), 4, (2, 2)),
        ((7, 8), 3, (2, 2)),
        ((4, 5), 2, (2, 2)),
        ((3, 3), 1, (3, 3)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_windows_shrink_so_that_two_fit(
    grid: tuple[int, int], side: int, picked: tuple[int, int]
) -> None:
    windows = draw_windows(("a", "b"), grid, 4, "key")
    assert windows.side == side
    assert windows.picks.shape == (2, *picked)
    assert windows.picks.min() >= 0
    assert windows.picks.max() < side**2


def test_a_pick_comes_from_its_own_window() -> None:
    windows = draw_windows([str(number) for number in range(64)], (9, 13), 4, "key")
    places = torch.arange(9 * 13).view(1, 1, 9, 13).expand(64, 2, -1, -1)
    picked = windows.pick(places)
    assert torch.equal(picked[:, 0], picked[:, 1])
    rows, columns = picked[:, 0] // 13, picked[:, 0] % 13
    assert torch.equal(rows // 4, torch.arange(2)[:, None].expand_as(rows))
    assert torch.equal(columns // 4, torch.arange(3).expand_as(columns))
    # 384 draws out of 16 places.
    assert len(windows.picks.unique()) == 16


def test_draws_depend_on_the_image_alone() -> None:
    forward = draw_windows(("a", "b", "c"), (8, 8), 4, 0, 1)
    backward = draw_windows(("c", "b", "a"), (8, 8), 4, 0, 1)
    assert torch.equal(forward.picks, backward.picks.flip(0))
    assert not torch.equal(forward.picks, draw_windows(("a", "b", "c"), (8, 8), 4, 0, 2).picks)


def test_windows_of_one_token_keep_all() -> None:
    maps = draw(2, 3, 4, 5)
    assert torch.equal(WindowSample(torch.zeros(2, 4, 5, dtype=torch.int64), 1).pick(maps), maps)
