"""EQUSS's own promises: settings, draws, what its quantiser takes, learns and gives."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract.cases import DIM, FEATURES, Walks, make_batch
from usseg_ray.core.types import Needs
from usseg_ray.methods.equss import EQUSS, ProductQuantiser
from usseg_ray.settings.equss import EQUSSConfig


def build(num_clusters: int = 4, **settings: Any) -> EQUSS:
    small = {"dim": 12, "subspaces": 3, "codebook_size": 5}
    return EQUSS(EQUSSConfig(**small | settings), FEATURES, num_clusters, seed=0)


def test_a_neighbour_is_needed() -> None:
    assert EQUSS.needs(EQUSSConfig(neighbours=3)) == Needs(neighbours=3)
    with pytest.raises(TypeError, match=r"equss needs Batch\.positive"):
        build().loss(replace(make_batch([0, 1]), positive=None), "train")


def test_head_and_codebooks_are_clipped_together() -> None:
    method = build(clustering="probe", lr=1e-3, cluster_lr=2e-2, clip_norm=3.0)
    learnt, probe = method.param_groups("train")
    assert (learnt.lr, learnt.clip_norm) == (1e-3, 3.0)
    assert (probe.lr, probe.clip_norm) == (2e-2, None)
    assert len(learnt.params) == 7
    assert [tuple(p.shape) for p in learnt.params[-1:]] == [(3, 5, 4)]


def test_the_same_channels_drop_everywhere() -> None:
    for view in build(dropout=0.4).draw(make_batch(range(40)), "train")[:2]:
        assert view.features.shape == (40, DIM, 1, 1)
        assert torch.equal(view.head.linear, view.features)
        assert torch.equal(view.head.nonlinear, view.features)
        assert float((view.features == 0).float().mean()) == pytest.approx(0.4, abs=0.08)


def test_codebooks_do_not_depend_on_k() -> None:
    assert torch.equal(build(4).quantiser.vectors, build(9).quantiser.vectors)


def test_first_vectors_are_drawn_as_xavier_does() -> None:
    vectors = ProductQuantiser(256, 8, 64, 0.25, torch.Generator().manual_seed(0)).vectors
    assert vectors.abs().max().item() == pytest.approx((6 / (64 + 32)) ** 0.5, rel=1e-3)
    assert vectors.mean().item() == pytest.approx(0, abs=0.01)


def test_only_directions_of_codes_count() -> None:
    method = build()
    codes = torch.randn(2, 12, 3, 3, generator=torch.Generator().manual_seed(1))
    first, second = method.quantiser(codes), method.quantiser(7 * codes)
    assert torch.equal(first.codes, second.codes)
    assert first.loss.item() == pytest.approx(second.loss.item(), rel=1e-5)


def test_usage_counts_vectors_that_were_taken() -> None:
    method = build()
    one = method.quantiser(torch.ones(2, 12, 3, 3))
    assert one.usage.item() == pytest.approx(1 / 5)
    many = method.quantiser(torch.randn(2, 12, 30, 30, generator=torch.Generator().manual_seed(1)))
    assert one.usage < many.usage <= 1


def test_codes_are_vectors_of_the_codebooks() -> None:
    method = build()
    codes = method.describe(make_batch(range(3)))
    for part, book in zip(codes.split(4, dim=1), method.quantiser.vectors, strict=True):
        rows = part.movedim(1, -1).reshape(-1, 4)
        assert (rows[:, None] == book).all(2).any(1).all()


def test_the_loss_says_what_it_is_made_of() -> None:
    method, batch = build(clustering="probe"), make_batch(range(4))
    draws = method.draw(batch, "train")
    result = method.loss(batch, "train", draws)
    codes = method.head(batch.features.tokens, draws.anchor.head)
    quantised = method.quantiser(codes)
    centroids = method.probe.loss(quantised.codes)
    torch.testing.assert_close(result.scalars["quantisation"], quantised.loss.detach())
    torch.testing.assert_close(result.scalars["codebook_usage"], quantised.usage)
    torch.testing.assert_close(
        result.loss, result.scalars["correspondence"] + quantised.loss + centroids
    )


def test_commitment_pulls_at_the_head_alone() -> None:
    codes = torch.randn(2, 12, 3, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for commitment in (0.0, 2.0):
        quantiser, given = build(commitment=commitment).quantiser, codes.clone().requires_grad_()
        quantiser(given).loss.backward()
        assert quantiser.vectors.grad is not None
        gradients.append((given.grad, quantiser.vectors.grad))
    (free, plain), (pulled, same) = gradients
    assert free is None or not free.any()
    assert pulled is not None
    assert pulled.any()
    assert torch.equal(plain, same)


def test_groups_are_of_quantised_codes() -> None:
    method = build().eval()
    method.fit_clusters(Walks(range(6)))
    batch = make_batch(range(3))
    torch.testing.assert_close(method.predict(batch), method.classify(method.describe(batch)))
