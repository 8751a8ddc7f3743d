"""Attention scores, the exact split of scalars, and weights of neighbours."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize, unfold

from usseg_ray.ops.attention import (
    cls_score,
    cosine_weights,
    local_weights,
    minhead_score,
    propagate,
    two_means_split,
)


def test_scores_drop_the_cls_key() -> None:
    attention = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for image in range(2):
        for patch in range(4):
            by_cls = sum(attention[image, h, 0, patch + 1] for h in range(3)) / 3
            least = sum(min(attention[image, :, q, patch + 1]) for q in range(5))
            assert float(cls_score(attention)[image, patch]) == pytest.approx(float(by_cls))
            assert float(minhead_score(attention)[image, patch]) == pytest.approx(float(least))


def split(scores: Tensor) -> Tensor:
    return two_means_split(scores[None], torch.ones(1, len(scores), dtype=torch.bool))[0]


@pytest.mark.parametrize("scores", [[0.3], [0.3, 0.3, 0.3]])
def test_equal_scores_are_all_foreground(scores: list[float]) -> None:
    assert split(torch.tensor(scores)).all()


def spread(group: list[int]) -> float:
    mean = sum(group) / len(group)
    return sum((number - mean) ** 2 for number in group)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=7, unique=True))
def test_split_is_the_best_of_all(numbers: list[int]) -> None:
    upper = split(torch.tensor(numbers, dtype=torch.float32)).tolist()
    high = [n for n, is_upper in zip(numbers, upper, strict=True) if is_upper]
    low = [n for n in numbers if n not in high]
    best = min(
        spread(list(part)) + spread([n for n in numbers if n not in part])
        for size in range(1, len(numbers))
        for part in combinations(numbers, size)
    )
    assert min(high) > max(low)
    assert spread(high) + spread(low) == pytest.approx(best)


def one_split(scores: Tensor) -> Tensor:
    """The best cut of one image's sorted numbers, cut by cut."""
    ordered = scores.double().sort().values
    if ordered[0] == ordered[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    parts = [(ordered[:cut], ordered[cut:]) for cut in range(1, len(ordered))]
    costs = [sum((part - part.mean()).square().sum() for part in pair) for pair in parts]
    return scores >= ordered[int(torch.stack(costs).argmin()) + 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("concepts", [1, 2, 5, 24])
def test_images_are_split_at_once_as_one_by_one(concepts: int) -> None:
    random = torch.Generator().manual_seed(concepts)
    scores = torch.rand(400, concepts, generator=random)
    scores[:100] = (3 * scores[:100]).round()  # many are equal
    used = torch.rand(400, concepts, generator=random) < 0.7
    found = two_means_split(scores, used)
    assert not found[~used].any()
    for own, part, chosen in zip(scores, used, found, strict=True):
        if part.any():
            assert torch.equal(chosen[part], one_split(own[part]))


def naive_local_weights(logits: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """The definition, row by row, with the whole attention matrix."""
    weights = torch.zeros(9, height, width, dtype=logits.dtype)
    for patch, row in enumerate(logits):
        low, high = np.quantile(row.numpy(), [0.1, 0.9])
        attention = sigma * row.clamp(float(low), float(high)).softmax(0)
        attention[attention < attention.mean() * (1 - 1e-9)] = 0
        y, x = divmod(patch, width)
        around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        inside = [0 <= v < height and 0 <= u < width for v, u in around]
        for number, ((v, u), there) in enumerate(zip(around, inside, strict=True)):
            if there:
                weights[number, y, x] = attention[v * width + u] / sum(inside)
    return weights


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 6), (3, 1), (1, 1)])
@pytest.mark.parametrize("sigma", [28.0, 3.0])
def test_local_weights_by_loops(height: int, width: int, sigma: float) -> None:
    count = height * width
    random = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(2, 3, count, count, dtype=torch.float64, generator=random)
    found = local_weights(logits, height, width, sigma)
    for image in range(2):
        expected = naive_local_weights(logits[image].mean(0), height, width, sigma)
        torch.testing.assert_close(found[image], expected)
    torch.testing.assert_close(local_weights(logits.mean(1), height, width, sigma), found)


def test_even_attention_keeps_every_neighbour() -> None:
    weights = local_weights(torch.full((1, 12, 12), 0.3), 3, 4)
    inside = local_weights(torch.zeros(1, 12, 12), 3, 4) > 0
    assert inside.sum(1)[0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]
    torch.testing.assert_close(weights.sum(1), torch.full((1, 3, 4), 28 / 12))


def test_large_logits_are_finite() -> None:
    logits = 1e4 * torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert local_weights(logits, 3, 4).isfinite().all()


def test_cosine_weights_are_those_of_cosine_logits() -> None:
    tokens = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = normalize(tokens.detach(), dim=1).flatten(2).mT
    expected = local_weights(rows @ rows.mT / 0.1, 3, 4)
    found = cosine_weights(tokens, 0.1)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert cosine_weights(torch.zeros(1, 6, 3, 4), 0.1).isfinite().all()


def test_propagate_equals_the_weighted_sum_over_neighbours() -> None:
    random = torch.Generator().manual_seed(1)
    codes = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=random).requires_grad_()
    weights = torch.rand(2, 9, 4, 5, dtype=torch.float64, generator=random)
    around = unfold(codes, 3, padding=1).unflatten(1, (3, 9)).unflatten(3, (4, 5))
    torch.testing.assert_close(propagate(codes, weights), (around * weights[:, None]).sum(2))
    assert torch.autograd.gradcheck(lambda x: propagate(x, weights), codes)


def test_no_gradient_reaches_the_weights() -> None:
    codes = torch.ones(1, 2, 2, 2, requires_grad=True)
    weights = torch.ones(1, 9, 2, 2, requires_grad=True)
    propagate(codes, weights).sum().backward()
    assert weights.grad is None
    assert codes.grad is not None
    assert codes.grad.eq(4).all()
