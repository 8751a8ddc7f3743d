import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from usseg_ray.scoring.partitions import (
    adjusted_rand_index,
    centroid_silhouette,
    contingency,
    evenness,
    mutual_information,
    shares,
)

parts = st.integers(0, 4)


def pairs_of_partitions() -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(parts, parts), min_size=2, max_size=25)


def tensors(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    one, other = zip(*pairs, strict=True)
    return torch.tensor(one), torch.tensor(other)


def naive_index(pairs: list[tuple[int, int]]) -> float:
    """Adjusts the Rand index for chance pair by pair."""
    same_one = same_other = same_both = total = 0
    for a, b in combinations(pairs, 2):
        total += 1
        same_one += a[0] == b[0]
        same_other += a[1] == b[1]
        same_both += a == b
    chance = same_one * same_other / total
    most = (same_one + same_other) / 2
    return 1.0 if most == chance else (same_both - chance) / (most - chance)


@given(pairs=pairs_of_partitions())
def test_the_index_equals_the_one_counted_pair_by_pair(pairs: list[tuple[int, int]]) -> None:
    one, other = tensors(pairs)
    assert adjusted_rand_index(one, other) == pytest.approx(naive_index(pairs), abs=1e-12)
    assert adjusted_rand_index(other, one) == pytest.approx(adjusted_rand_index(one, other))


@given(pairs=pairs_of_partitions(), names=st.permutations(range(5)))
def test_names_of_parts_do_not_matter(pairs: list[tuple[int, int]], names: list[int]) -> None:
    one, other = tensors(pairs)
    renamed = torch.tensor(names)[one]
    assert adjusted_rand_index(renamed, one) == 1
    renamed_index = adjusted_rand_index(renamed, other)
    assert renamed_index == pytest.approx(adjusted_rand_index(one, other))


def test_independent_partitions_agree_by_chance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(5, (2, 20000), generator=generator)
    assert abs(adjusted_rand_index(one, other)) < 0.01
    single = torch.zeros_like(one)
    assert adjusted_rand_index(one, single) == 0
    assert adjusted_rand_index(single, single) == 1
    assert adjusted_rand_index(one[:1], other[:1]) == 1
    assert adjusted_rand_index(one[:0], other[:0]) == 1


@given(pairs=pairs_of_partitions())
def test_contingency_counts_every_point(pairs: list[tuple[int, int]]) -> None:
    one, other = tensors(pairs)
    table = contingency(one, other)
    for k, row in enumerate(table.tolist()):
        assert row == [pairs.count((k, column)) for column in range(table.shape[1])]
    assert int(table.sum()) == len(pairs)


@given(part=st.lists(parts, min_size=1, max_size=30))
def test_shares_and_evenness(part: list[int]) -> None:
    share = shares(torch.tensor(part), 5)
    assert share.tolist() == pytest.approx([part.count(k) / len(part) for k in range(5)])
    naive = -sum(s * math.log(s) for s in share.tolist() if s) / math.log(5)
    assert evenness(share) == pytest.approx(naive, abs=1e-9)
    assert evenness(torch.full((4,), 0.25, dtype=torch.float64)) == pytest.approx(1)
    assert evenness(torch.tensor([1.0, 0.0], dtype=torch.float64)) == 0


def naive_silhouette(points: Tensor, part: list[int]) -> float:
    unit = [row / row.norm() for row in points.double()]
    centres = {
        k: sum(u for u, p in zip(unit, part, strict=True) if p == k) / part.count(k)
        for k in set(part)
    }
    if len(centres) < 2:
        return 0.0
    values = []
    for row, own in zip(unit, part, strict=True):
        a = float((row - centres[own]).norm())
        b = min(float((row - centre).norm()) for k, centre in centres.items() if k != own)
        values.append((b - a) / max(a, b))
    return sum(values) / len(values)


@given(part=st.lists(parts, min_size=1, max_size=12), seed=st.integers(0, 9))
def test_the_silhouette_equals_its_naive_form(part: list[int], seed: int) -> None:
    points = torch.randn(len(part), 3, generator=torch.Generator().manual_seed(seed))
    found = centroid_silhouette(points, torch.tensor(part))
    assert found == pytest.approx(naive_silhouette(points, part), abs=1e-6)


def test_the_silhouette_of_clear_mixed_and_collapsed_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    part = torch.arange(3).repeat(50)
    clear = torch.eye(3)[part] + 0.05 * torch.randn(150, 3, generator=generator)
    assert centroid_silhouette(clear, part) > 0.9
    shuffled = part[torch.randperm(150, generator=generator)]
    assert centroid_silhouette(clear, shuffled) < 0.1
    assert centroid_silhouette(clear, torch.zeros_like(part)) == 0
    assert centroid_silhouette(torch.ones(150, 3), part) == pytest.approx(0)
    assert centroid_silhouette(torch.zeros(150, 3), part) == 0


@given(pairs=pairs_of_partitions())
def test_mutual_information_is_what_the_joint_entropy_lacks(pairs: list[tuple[int, int]]) -> None:
    def entropy(values: list[object]) -> float:
        counts = [values.count(value) for value in set(values)]
        return -sum(c / len(values) * math.log(c / len(values)) for c in counts)

    one, other = tensors(pairs)
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    naive = entropy([*first]) + entropy([*second]) - entropy([*pairs])
    assert mutual_information(one, other) == pytest.approx(naive, abs=1e-9)
    assert mutual_information(one, one) == pytest.approx(entropy([*first]), abs=1e-9)
    assert mutual_information(one, torch.zeros_like(one)) == pytest.approx(0, abs=1e-12)
