"""Attention scores and the exact split of scalars."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usseg_ray.ops.attention import cls_score, minhead_score, two_means_split


def test_scores_drop_the_cls_key() -> None:
    attention = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for image in range(2):
        for patch in range(4):
            by_cls = sum(attention[image, h, 0, patch + 1] for h in range(3)) / 3
            least = sum(min(attention[image, :, q, patch + 1]) for q in range(5))
            assert float(cls_score(attention)[image, patch]) == pytest.approx(float(by_cls))
            assert float(minhead_score(attention)[image, patch]) == pytest.approx(float(least))


@pytest.mark.parametrize("scores", [[0.3], [0.3, 0.3, 0.3]])
def test_equal_scores_are_all_foreground(scores: list[float]) -> None:
    assert two_means_split(torch.tensor(scores)).all()


def spread(group: list[int]) -> float:
    mean = sum(group) / len(group)
    return sum((number - mean) ** 2 for number in group)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=7, unique=True))
def test_split_is_the_best_of_all(numbers: list[int]) -> None:
    upper = two_means_split(torch.tensor(numbers, dtype=torch.float32)).tolist()
    high = [n for n, is_upper in zip(numbers, upper, strict=True) if is_upper]
    low = [n for n in numbers if n not in high]
    best = min(
        spread(list(part)) + spread([n for n in numbers if n not in part])
        for size in range(1, len(numbers))
        for part in combinations(numbers, size)
    )
    assert min(high) > max(low)
    assert spread(high) + spread(low) == pytest.approx(best)
