"""Contrast against their definitions; official vectors are in tests/numerics."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tests.rounded import as_on_a_gpu
from usseg_ray.methods.parts import concepts as module
from usseg_ray.methods.parts.concepts import (
    ContrastTerms,
    contrast,
    mean_term,
    nearest_codes,
    relate,
    share_used,
)
from usseg_ray.ops.concept_bank import Keys

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
