"""STEGO's own promises: settings, draws, what is dropped, prediction."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract.cases import DIM, FEATURES, make_batch
from usseg_ray.core.types import Needs
from usseg_ray.methods.parts.correspondence import Maps, Shifts, Switches, correspondence_terms
from usseg_ray.methods.parts.heads import HeadMasks
from usseg_ray.methods.stego import STEGO, STEGODraws, ViewMasks
from usseg_ray.settings.stego import STEGOConfig


def build(**settings: Any) -> STEGO:
    return STEGO(STEGOConfig(**{"clustering": "probe"} | settings), FEATURES, 4, seed=0)


def masks_of(draws: STEGODraws) -> list[torch.Tensor]:
    return [mask for view in draws[:2] for mask in (*view.head, view.features)]


def test_a_neighbour_is_needed() -> None:
    assert STEGO.needs(STEGOConfig(neighbours=3)) == Needs(neighbours=3)
    with pytest.raises(TypeError, match=r"Batch\.positive"):
        build().loss(replace(make_batch([0, 1]), positive=None), "train")


def test_head_and_probe_have_their_own_rates() -> None:
    method = build(lr=1e-3, cluster_lr=2e-2)
    head, probe = method.param_groups("train")
    assert (head.lr, probe.lr) == (1e-3, 2e-2)
    assert {group.optimiser for group in (head, probe)} == {"adam"}
    assert [p.shape for p in probe.params] == [(4, 70)]
    assert len(head.params) == 6


def test_draws_of_an_image_do_not_depend_on_its_batch() -> None:
    method = build()
    whole = method.draw(make_batch(range(6)), "train")
    part = method.draw(make_batch([4, 2]), "train")
    pairs = [*zip(masks_of(part), masks_of(whole), strict=True)]
    pairs += zip(part.correspondence[:2], whole.correspondence[:2], strict=True)
    for own, joint in pairs:
        assert torch.equal(own, joint[[4, 2]])


def test_draws_change_with_step_and_seed() -> None:
    method, other = build(), build()
    other.seed = 1
    drawn = [
        method.draw(make_batch(range(8), step=0), "train"),
        method.draw(make_batch(range(8), step=1), "train"),
        other.draw(make_batch(range(8), step=0), "train"),
    ]
    flat = [
        torch.cat([part.double().flatten() for part in (*masks_of(draws), *draws.correspondence)])
        for draws in drawn
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(flat[first], flat[second])


def test_places_are_even_and_negatives_are_others() -> None:
    method = build(feature_samples=9, negatives=3)
    anchors, others, negatives = method.draw(make_batch(range(20)), "train").correspondence
    assert anchors.shape == others.shape == (20, 9, 9, 2)
    assert negatives.shape == (3, 20)
    assert (negatives != torch.arange(20)).all()
    for coords in (anchors, others):
        assert coords.abs().max() <= 1
        assert coords.mean((0, 1, 2)).tolist() == pytest.approx([0, 0], abs=0.05)
        assert coords.std().item() == pytest.approx(3**-0.5, abs=0.02)
    assert not torch.equal(anchors, others)


def test_whole_channels_drop_by_themselves_in_each_place() -> None:
    masks = masks_of(build(dropout=0.3).draw(make_batch(range(40)), "train"))
    for mask in masks:
        assert mask.shape == (40, DIM, 1, 1)
        assert float((mask == 0).float().mean()) == pytest.approx(0.3, abs=0.05)
    kept = torch.stack([mask.flatten() > 0 for mask in masks]).float()
    correlation = torch.corrcoef(kept) - torch.eye(6)
    assert correlation.abs().max() < 0.15
    assert all((mask == 1).all() for mask in masks_of(build(dropout=0).draw(make_batch([0]), "a")))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_intra": 0.1, "weight_inter": 1.0, "weight_negative": 0.2},
        {"shift_intra": 0.5, "shift_inter": 0.4, "shift_negative": 0.1},
        {"pointwise": False},
        {"zero_clamp": False, "stabilise": True},
        {"dropout": 0.5},
        {"feature_samples": 3, "negatives": 1},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_settings_reach_the_loss(settings: dict[str, Any]) -> None:
    method, batch = build(**settings), make_batch(range(4))
    config = STEGOConfig(**settings)
    draws = method.draw(batch, "train")
    assert batch.positive is not None
    maps = [
        Maps(view.tokens * masks.features, method.head(view.tokens, masks.head))
        for view, masks in zip((batch.features, batch.positive), draws[:2], strict=True)
    ]
    terms = correspondence_terms(
        maps[0],
        maps[1],
        draws.correspondence,
        Shifts(config.shift_intra, config.shift_inter, config.shift_negative),
        Switches(config.pointwise, config.zero_clamp, config.stabilise),
    )
    weights = (config.weight_intra, config.weight_inter, config.weight_negative)
    expected = sum(weight * term.loss for weight, term in zip(weights, terms, strict=True))
    found = method.loss(batch, "train")
    torch.testing.assert_close(found.scalars["correspondence"], expected.detach())  # type: ignore[union-attr]
    torch.testing.assert_close(found.loss, expected + method.probe.loss(maps[0].codes))
    assert torch.equal(method.loss(batch, "train", draws).loss, found.loss)
    if settings:
        assert found.loss != build().loss(batch, "train").loss


def test_probe_does_not_pull_at_the_head() -> None:
    method, batch = build(), make_batch(range(4))
    method.loss(batch, "train").loss.backward()
    whole = [p.grad for p in method.head.parameters()]
    with torch.no_grad():
        method.probe.centroids.copy_(torch.eye(4, 70))
    method.zero_grad()
    method.loss(batch, "train").loss.backward()
    for before, after in zip(whole, [p.grad for p in method.head.parameters()], strict=True):
        assert before is not None
        assert after is not None
        assert torch.equal(before, after)


def test_a_lone_image_is_compared_with_itself() -> None:
    method, batch = build(dropout=0), make_batch([3])
    kept = torch.ones(1, DIM, 1, 1)
    masks = ViewMasks(HeadMasks(kept, kept), kept)
    drawn = method.draw(batch, "train").correspondence
    assert drawn.negatives.tolist() == [[0]] * 5
    same = drawn._replace(others=drawn.anchors)
    batch = replace(batch, positive=batch.features)
    scalars = method.loss(batch, "train", STEGODraws(masks, masks, same)).scalars
    for name in ("inter", "negative"):
        torch.testing.assert_close(scalars[f"{name}_similarity"], scalars["intra_similarity"])


def test_prediction_against_loops() -> None:
    method, batch = build(), make_batch(range(2))
    scores, codes = method.predict(batch), method.encode(batch)
    assert codes.shape[1] == 70
    torch.testing.assert_close(codes, method.head(batch.features.tokens).detach())
    for cluster, centroid in enumerate(method.probe.centroids.detach()):
        cosines = torch.nn.functional.cosine_similarity(codes, centroid[:, None, None], dim=1)
        torch.testing.assert_close(scores[:, cluster], cosines)
