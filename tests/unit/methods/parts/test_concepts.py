"""Contrast and concept bank against their definitions; official vectors are in tests/numerics."""

import copy
import io
import math
from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tests.rounded import as_on_a_gpu
from usseg_ray.methods.parts import concepts as module
from usseg_ray.methods.parts.concepts import (
    ConceptBank,
    ContrastTerms,
    Keys,
    contrast,
    mean_term,
    nearest_codes,
    relate,
    share_used,
)

THRESHOLDS = {"positive_above": 0.3, "negative_below": 0.1}


def draw(*shape: int, seed: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=random)


def codes(count: int, num_codes: int) -> Tensor:
    return torch.randint(num_codes, (count,), generator=torch.Generator().manual_seed(count))


def naive_term(
    anchors: Tensor,
    anchor_codes: Tensor,
    keys: Keys,
    codebook: Tensor,
    temperature: float,
    own: int,
) -> Tensor:
    """The mean over positive pairs, key by key; `own` is the key of the first anchor, or -1."""
    losses = []
    for place, (anchor, code) in enumerate(zip(anchors, anchor_codes, strict=True)):
        alike = cosine_similarity(codebook[code][None], codebook[keys.codes])
        logits = cosine_similarity(anchor[None], keys.values) / temperature
        positive, negative = alike > 0.3, alike < 0.1
        if own >= 0:
            positive[own + place] = negative[own + place] = False
        total = logits[positive | negative].exp().sum().log()
        losses += [total - logits[key] for key in positive.nonzero()[:, 0]]
    return torch.stack(losses).mean()


def test_share_of_codes_that_occur() -> None:
    assert share_used(torch.tensor([[[0, 3], [3, 0]]]), 8).item() == 0.25
    assert share_used(torch.arange(4), 4).item() == 1


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("logits", [1, 60, 10**6])
def test_contrast_against_loops(own: bool, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS", logits)
    codebook, anchors = draw(6, 4), draw(3, 5, 7, seed=4).requires_grad_()
    own_codes = codes(15, 6)
    count = 15 if own else 40
    keys = Keys(normalize(draw(count, 7, seed=5), dim=1), own_codes if own else codes(count, 6))
    relations = relate(own_codes, codebook, **THRESHOLDS)
    terms = contrast(anchors, relations, keys, temperature=0.2, keys_are_anchors=own)
    expected = torch.stack(
        [
            naive_term(
                anchors[image],
                own_codes.view(3, 5)[image],
                keys,
                codebook,
                0.2,
                5 * image if own else -1,
            )
            for image in range(3)
        ]
    )
    torch.testing.assert_close(terms.nats, expected)
    weights = draw(3)
    (mine,) = torch.autograd.grad((weights * terms.nats).sum(), anchors)
    (reference,) = torch.autograd.grad((weights * expected).sum(), anchors)
    torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("own", [False, True])
def test_rounded_products_change_rounding_only(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    codebook, anchors = draw(20, 32).float(), draw(4, 25, 64, seed=4).float().requires_grad_()
    own_codes, count = codes(100, 20), 100 if own else 400
    values = normalize(draw(count, 64, seed=5).float(), dim=1)
    keys = Keys(values, own_codes if own else codes(count, 20))

    def found() -> tuple[Tensor, Tensor, Tensor]:
        relations = relate(own_codes, codebook, **THRESHOLDS)
        terms = contrast(anchors, relations, keys, temperature=0.07, keys_are_anchors=own)
        return terms.nats, terms.pairs, torch.autograd.grad(terms.nats.sum(), anchors)[0]

    nats, pairs, grad = found()
    monkeypatch.setattr(module, "rounded_products", as_on_a_gpu)
    rounded_nats, rounded_pairs, rounded_grad = found()
    # Who attracts whom follows from codes, which are compared in float32.
    assert torch.equal(rounded_pairs, pairs)
    assert not torch.equal(rounded_nats, nats)
    torch.testing.assert_close(rounded_nats, nats, rtol=1e-4, atol=0)
    assert (rounded_grad - grad).norm() < 1e-3 * grad.norm()


def test_only_a_gradient_of_the_anchors_size_is_kept() -> None:
    anchors = draw(2, 5, 7).requires_grad_()
    relations = relate(codes(10, 6), draw(6, 4), **THRESHOLDS)
    keys = Keys(normalize(draw(300, 7), dim=1), codes(300, 6))
    terms = contrast(anchors, relations, keys, temperature=0.07)
    node: Any = terms.nats.grad_fn
    assert [kept.shape for kept in node.saved_tensors] == [anchors.shape]
    assert not terms.pairs.requires_grad


@pytest.mark.parametrize("case", ["no keys", "only negatives", "only neutral", "itself alone"])
def test_terms_without_a_positive_are_left_out(case: str) -> None:
    cosine = 0.2 if case == "only neutral" else -1.0
    codebook = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    anchors = torch.ones(1, 1, 3).requires_grad_()
    values = torch.eye(3)[:1]
    keys = {
        "no keys": Keys(values[:0], torch.empty(0, dtype=torch.int64)),
        "itself alone": Keys(values, torch.tensor([0])),
    }.get(case, Keys(values, torch.tensor([1])))
    relations = relate(torch.tensor([0]), codebook, **THRESHOLDS)
    term = contrast(
        anchors, relations, keys, temperature=0.07, keys_are_anchors=case == "itself alone"
    )
    assert term.pairs.tolist() == [0]
    loss = mean_term([term])
    loss.backward()
    assert loss == 0
    assert anchors.grad is not None
    assert not anchors.grad.any()


def test_terms_count_alike() -> None:
    parts = [
        ContrastTerms(torch.tensor([1.0, 0.0]), torch.tensor([7.0, 0.0])),
        ContrastTerms(torch.tensor([2.0, 6.0]), torch.tensor([1.0, 900.0])),
    ]
    assert mean_term(parts) == 3


@pytest.mark.parametrize("temperature", [0.03, 0.07, 1.0])
def test_opposite_keys_do_not_underflow(temperature: float) -> None:
    codebook = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    anchors = torch.tensor([[[1.0, 0.0]]]).requires_grad_()
    keys = Keys(torch.tensor([[-1.0, 0.0]]), torch.tensor([1]))
    relations = relate(torch.tensor([0]), codebook, **THRESHOLDS)
    term = contrast(anchors, relations, keys, temperature=temperature)
    # The one key is certain, however far away.
    assert float(term.nats[0].detach()) == pytest.approx(0, abs=1e-4)


def test_nearest_codes_ignore_lengths() -> None:
    tokens, codebook = draw(2, 4, 3, 5), draw(6, 4, seed=8)
    index = nearest_codes(tokens, codebook)
    assert index.shape == (2, 3, 5)
    longer = nearest_codes(3 * tokens, codebook * torch.arange(1, 7)[:, None])
    assert torch.equal(index, longer)
    cosines = cosine_similarity(tokens[:, None], codebook[None, :, :, None, None], dim=2)
    assert torch.equal(index, cosines.argmax(1))


# The bank


def naive_bank(
    num_codes: int, capacity: int, batches: list[tuple[Tensor, Tensor, Tensor]]
) -> list[deque[Tensor]]:
    """Queues of the definition."""
    queues: list[deque[Tensor]] = [deque(maxlen=capacity) for _ in range(num_codes)]
    for values, own, priorities in batches:
        for code in range(num_codes):
            places = (own == code).nonzero()[:, 0]
            chosen = places[priorities[places].argsort()][: len(places) // 2]
            queues[code].extend(values[chosen])
    return queues


def contents(bank: ConceptBank) -> list[list[Tensor]]:
    return [
        [
            bank.values[bank.slots[code, number % bank.capacity]]
            for number in range(max(0, added - bank.capacity), added)
        ]
        for code, added in enumerate(bank.added.tolist())
    ]


def batches(steps: int, count: int = 30) -> list[tuple[Tensor, Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(count, 3, generator=random),
            torch.randint(7, (count,), generator=random),
            torch.rand(count, generator=random),
        )
        for _ in range(steps)
    ]


@pytest.mark.parametrize("capacity", [1, 2, 5, 100])
def test_bank_against_queues(capacity: int) -> None:
    bank = ConceptBank(9, 3, capacity)
    steps = batches(8)
    for number, (values, own, priorities) in enumerate(steps, start=1):
        bank.update(values, own, priorities)
        queues = naive_bank(9, capacity, steps[:number])
        assert len(bank) == sum(map(len, queues))
        for found, expected in zip(contents(bank), queues, strict=True):
            assert len(found) == len(expected)
            for value, raw in zip(found, expected, strict=True):
                torch.testing.assert_close(value, normalize(raw, dim=0))
    keys = bank.keys()
    assert len(keys.values) == len(keys.codes) == len(bank)
    assert torch.equal(
        keys.codes.bincount(minlength=9), torch.tensor([len(queue) for queue in queues])
    )


def test_a_single_token_does_not_enter() -> None:
    bank = ConceptBank(4, 2, 5)
    bank.update(torch.ones(4, 2), torch.arange(4), torch.rand(4))
    assert len(bank) == 0
    bank.update(torch.ones(3, 2), torch.tensor([1, 1, 1]), torch.rand(3))
    assert bank.keys().codes.tolist() == [1]


@pytest.mark.parametrize(("share", "entries"), [(0.2, 2), (0.5, 5), (1.0, 10)])
def test_share(share: float, entries: int) -> None:
    bank = ConceptBank(2, 2, 100)
    bank.update(torch.rand(10, 2), torch.zeros(10, dtype=torch.int64), torch.rand(10), share)
    assert len(bank) == entries


def test_the_order_of_tokens_does_not_matter() -> None:
    ((values, own, priorities),) = batches(1)
    straight, mixed = ConceptBank(7, 3, 2), ConceptBank(7, 3, 2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    straight.update(values, own, priorities)
    mixed.update(values[order], own[order], priorities[order])
    for name, value in straight.state_dict().items():
        assert torch.equal(value, mixed.state_dict()[name])


def test_memory_follows_what_is_held() -> None:
    bank = ConceptBank(2048, 64, 100)
    assert bank.values.numel() == 0
    for values, own, priorities in batches(20):
        wide = values.repeat(1, 22)[:, :64]
        bank.update(wide, own, priorities)
        assert len(bank) <= len(bank.values) < 1.5 * len(bank) + 30
    full = ConceptBank(2, 3, 4)
    for values, own, priorities in batches(5):
        full.update(values, own % 2, priorities)
    assert len(full) == len(full.values) == 8
    full.clear()
    assert len(full) == full.values.numel() == 0
    assert full.values.untyped_storage().nbytes() == 0


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("before", [0, 3])
def test_a_state_of_any_size_loads_and_goes_on(steps: int, before: int) -> None:
    bank, other = ConceptBank(7, 3, 4), ConceptBank(7, 3, 4)
    given = batches(10)
    for batch in given[:steps]:
        bank.update(*batch)
    for batch in given[:before]:
        other.update(*batch)
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    for batch in given[6:]:
        bank.update(*batch)
        other.update(*batch)
    for name, value in bank.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_state_has_the_rows_that_are_used_alone() -> None:
    bank = ConceptBank(7, 3, 40)
    for batch in batches(6):
        bank.update(*batch)
    saved = bank.state_dict()
    assert 0 < len(bank) == len(saved["values"]) == len(saved["codes"]) < len(bank.values)
    # PyTorch writes all memory that a view is of.
    assert saved["values"].untyped_storage().nbytes() == 4 * 3 * len(bank)
    assert torch.equal(saved["values"], bank.keys().values)


def test_a_loaded_state_is_a_copy() -> None:
    bank = ConceptBank(7, 3, 4)
    bank.update(*batches(1)[0])
    state = copy.deepcopy(bank.state_dict())
    other = ConceptBank(7, 3, 4)
    other.load_state_dict(state)
    for batch in batches(4):
        other.update(*batch)
    assert torch.equal(state["values"], bank.values)


def test_a_bank_of_another_clusterbook_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for slots"):
        ConceptBank(7, 3, 4).load_state_dict(ConceptBank(8, 3, 4).state_dict())
