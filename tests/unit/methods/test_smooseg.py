"""SmooSeg's own promises: settings, draws, who learns from what, prediction."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from tests.contract.cases import DIM, FEATURES, Walks, make_batch
from usseg_ray.core.types import Needs
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.parts.correspondence import Maps, moments, smoothness
from usseg_ray.methods.smooseg import SmooSeg
from usseg_ray.settings.smooseg import SmooSegConfig


def build(num_clusters: int = 4, **settings: Any) -> SmooSeg:
    return SmooSeg(SmooSegConfig(**settings), FEATURES, num_clusters, seed=0)


def test_nothing_but_tokens_is_needed() -> None:
    assert SmooSeg.needs(SmooSegConfig()) == Needs()


def test_head_and_prototypes_have_their_own_rates() -> None:
    method = build(lr=1e-3, prototype_lr=2e-2)
    head, prototypes = method.param_groups("train")
    assert (head.lr, prototypes.lr) == (1e-3, 2e-2)
    assert {group.optimiser for group in (head, prototypes)} == {"adam"}
    assert [p.shape for p in prototypes.params] == [(4, 64)]
    assert len(head.params) == 6


def test_clusters_are_prototypes_or_groups_of_codes() -> None:
    batch = make_batch(range(12))
    for clustering in ("prototypes", "kmeans"):
        method = build(dim=8, clustering=clustering)
        prototypes = method.teacher.centroids.clone()
        method.fit_clusters(Walks(range(12)))
        assert torch.equal(method.teacher.centroids, prototypes), "training goes on with them"
        groups = prototypes if clustering == "prototypes" else method.groups.centroids
        assert torch.equal(groups, prototypes) == (clustering == "prototypes")
        codes, directions = (normalize(x, dim=1) for x in (method.describe(batch), groups))
        cosines = torch.einsum("bchw,kc->bkhw", codes, directions)
        torch.testing.assert_close(method.predict(batch), cosines)


def test_prototypes_start_as_equal_unit_vectors() -> None:
    method = build()
    student = method.student.centroids.detach()
    torch.testing.assert_close(student.norm(dim=1), torch.ones(4))
    assert torch.equal(student, method.teacher.centroids)
    assert not method.teacher.centroids.requires_grad


def test_draws_of_an_image_do_not_depend_on_its_batch() -> None:
    method = build()
    whole, part = (method.draw(make_batch(images), "train") for images in (range(6), [4, 2]))
    for own, joint in zip((*part.head, part.features), (*whole.head, whole.features), strict=True):
        assert torch.equal(own, joint[[4, 2]])


def test_draws_change_with_step_and_seed() -> None:
    method, other = build(), build()
    other.seed = 1
    drawn = [
        method.draw(make_batch(range(20), step=0), "train"),
        method.draw(make_batch(range(20), step=1), "train"),
        other.draw(make_batch(range(20), step=0), "train"),
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(drawn[first].features, drawn[second].features)
        assert not torch.equal(drawn[first].negatives, drawn[second].negatives)


def test_whole_channels_drop_by_themselves_in_each_place() -> None:
    draws = build(dropout=0.3).draw(make_batch(range(40)), "train")
    masks = [*draws.head, draws.features]
    for mask in masks:
        assert mask.shape == (40, DIM, 1, 1)
        assert float((mask == 0).float().mean()) == pytest.approx(0.3, abs=0.05)
    correlation = torch.corrcoef(torch.stack([mask.flatten() for mask in masks])) - torch.eye(3)
    assert correlation.abs().max() < 0.15
    assert (draws.negatives != torch.arange(40)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_intra": 0.1, "weight_negative": 2.0, "weight_data": 0.5},
        {"shift_intra": 0.3, "shift_negative": 0.1},
        {"pointwise": False},
        {"dropout": 0.5},
        {"temperature": 1.0},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_settings_reach_the_loss(settings: dict[str, Any]) -> None:
    method, batch = build(**settings), make_batch(range(4))
    config = SmooSegConfig(**settings)
    # Student and teacher that differ: or one could stand for the other.
    with torch.no_grad():
        method.teacher.centroids.add_(torch.linspace(-1, 1, 64))
    draws = method.draw(batch, "train")
    tokens = batch.features.tokens
    codes = method.head(tokens, draws.head).detach()
    scores = method.teacher(codes)
    images = moments(Maps(tokens * draws.features, (scores / config.temperature).softmax(1)))
    options = {"pointwise": config.pointwise}
    expected = (
        config.weight_intra * smoothness(images, images, config.shift_intra, **options)
        + config.weight_negative
        * smoothness(images, images.of(draws.negatives), config.shift_negative, **options)
        + config.weight_data * cross_entropy(method.student(codes), scores.argmax(1))
    )
    found = method.loss(batch, "train").loss
    torch.testing.assert_close(found, expected)
    assert torch.equal(method.loss(batch, "train", draws).loss, found)
    if settings:
        plain = build()
        plain.load_state_dict(method.state_dict())
        assert found != plain.loss(batch, "train").loss


@pytest.mark.parametrize("learner", ["head", "student"])
def test_head_learns_from_smoothness_and_student_from_data(learner: str) -> None:
    off = ["weight_data"] if learner == "head" else ["weight_intra", "weight_negative"]
    settings: list[dict[str, Any]] = [{}, dict.fromkeys(off, 0.0)]
    gradients = []
    for own in settings:
        method = build(**own)
        method.loss(make_batch(range(4)), "train").loss.backward()
        gradients.append([p.grad for p in getattr(method, learner).parameters()])
    for both, alone in zip(*gradients, strict=True):
        assert both is not None
        assert alone is not None
        assert both.any()
        torch.testing.assert_close(both, alone)


def test_teacher_follows_slowly_and_one_step_late() -> None:
    method, batch = build(decay=0.5), make_batch(range(4))
    optimiser = Optimiser(method.param_groups("train"))
    first = method.student.centroids.detach().clone()
    seen = [first]
    for step in range(3):
        method.loss(replace(batch, step=replace(batch.step, index=step)), "train").loss.backward()
        optimiser.step()
        method.after_step()
        seen.append(method.student.centroids.detach().clone())
    # Prototypes of the first, second and third loss weigh 1/2 less from one to the one before.
    expected = first / 8 + seen[0] / 8 + seen[1] / 4 + seen[2] / 2
    torch.testing.assert_close(method.teacher.centroids, expected)
    assert not torch.equal(seen[2], seen[3])


@pytest.mark.parametrize("num_clusters", [2, 27])
def test_data_term_has_a_floor(num_clusters: int) -> None:
    data = build(num_clusters).loss(make_batch(range(4)), "train").scalars["data"]
    assert float(data) > math.log(1 + (num_clusters - 1) * math.exp(-2))


def test_prediction_against_loops() -> None:
    method, batch = build(), make_batch(range(2))
    with torch.no_grad():
        method.teacher.centroids.add_(torch.linspace(-1, 1, 64))
    scores, codes = method.predict(batch), method.encode(batch)
    torch.testing.assert_close(codes, method.head(batch.features.tokens).detach())
    for cluster, prototype in enumerate(method.teacher.centroids):
        cosines = cosine_similarity(codes, prototype[:, None, None], dim=1)
        torch.testing.assert_close(scores[:, cluster], cosines)
