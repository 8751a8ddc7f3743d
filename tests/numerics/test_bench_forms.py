"""The official forms that the benchmark times equal ours, on what it times, but small."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.bench import works
from usseg_ray.bench.naive import ConceptLists
from usseg_ray.bench.works import ConceptSteps, Forms, Sizes
from usseg_ray.ops.concept_bank import ConceptBank

SMALL = Sizes(
    images=3,
    side=7,
    features=24,
    dim=16,
    pool=12,
    code_dim=6,
    samples=4,
    negatives=2,
    tokens=20,
    codes=64,
    projection=16,
    entries=3,
    cluster_images=3,
    cluster_side=9,
    cluster_dim=16,
    clusters=5,
)


@pytest.mark.parametrize("images", [2, 3])
@pytest.mark.parametrize(
    "make", [works.clusterbook, works.clustering, works.correspondence, works.contrastive]
)
def test_forms_are_equal(make: Callable[[Sizes], Forms], images: int) -> None:
    forms = make(replace(SMALL, images=images, cluster_images=images))
    ours, official = forms.ours(), forms.official()
    assert isinstance(ours, list)
    assert isinstance(official, list)
    assert all(float(part.abs().max()) > 0 for part in official)
    for own, other in zip(ours, official, strict=True):
        assert_equal(own, other)


def test_labels_are_equal() -> None:
    forms = works.labelling(SMALL)
    labels = forms.ours()
    assert isinstance(labels, Tensor)
    assert torch.equal(labels, forms.official())  # type: ignore[arg-type]
    assert len(labels.unique()) == SMALL.clusters


def test_concept_steps_are_equal_while_the_bank_turns_over() -> None:
    steps = ConceptSteps(SMALL)
    lists = steps.lists()
    first = lists.rebuild().values
    assert_same_entries(lists, steps.bank)
    for _ in range(4):
        for own, other in zip(steps.ours(), steps.official(lists, lists.rebuild()), strict=True):
            assert_equal(own, other)
        assert_same_entries(lists, steps.bank)
    assert not torch.equal(first, lists.rebuild().values)


def assert_same_entries(lists: ConceptLists, bank: ConceptBank) -> None:
    """Compares what a full bank and lists hold of every code, from the oldest entry on."""
    for own, slots, added in zip(lists.entries, bank.slots, bank.added.tolist(), strict=True):
        assert_equal(bank.values[slots.roll(-added)], normalize(own, dim=1))


def assert_equal(ours: Tensor, official: Tensor) -> None:
    scale = float(official.abs().max())
    torch.testing.assert_close(ours, official, rtol=1e-4, atol=1e-5 * scale)
