"""ACSeg's own promises: settings, regions, background, prediction."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import FEATURES, Given, Walks, make_batch
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec
from usseg_ray.methods.acseg import ACSeg
from usseg_ray.methods.parts.regions import settled
from usseg_ray.ops.context import averaged
from usseg_ray.ops.kmeans import assign
from usseg_ray.ops.modularity import affinity, cosine, graph, modularity_loss
from usseg_ray.settings.acseg import ACSegConfig


def build(num_clusters: int = 4, **settings: Any) -> ACSeg:
    return ACSeg(ACSegConfig(**settings), FEATURES, num_clusters, seed=0)


def test_heads_that_do_not_divide_the_dim() -> None:
    with pytest.raises(UserError, match=r"num_heads = 5 .* 12\. Choose one of 1, 2, 3, 4, 6, 12\."):
        build(num_heads=5)


def test_background_needs_attention() -> None:
    blind = FeatureSpec(dim=12, patch_size=8, has_attention=False)
    with pytest.raises(UserError, match="last-block attention"):
        ACSeg(ACSegConfig(background="split"), blind, 4, seed=0)
    assert ACSeg.needs(ACSegConfig()).attention is None
    split = ACSegConfig(background="split", background_score="minhead")
    assert ACSeg.needs(split).attention == "minhead"


def test_norms_biases_and_prototypes_do_not_decay() -> None:
    method = build(weight_decay=0.3, lr=2e-3, clip_norm=5.0, warmup_steps=7)
    decayed, rest = method.param_groups("train")
    assert decayed.weight_decay == 0.3
    assert rest.weight_decay == 0
    assert all(p.ndim == 2 for p in decayed.params)
    assert [p.shape for p in rest.params if p.ndim == 2] == [(5, 12)]
    assert {(g.lr, g.clip_norm, g.warmup_steps) for g in (decayed, rest)} == {(2e-3, 5.0, 7)}


def test_scalars_against_loops() -> None:
    method, batch = build(num_prototypes=8), make_batch(range(5))
    scalars = method.loss(batch, "train").scalars
    tokens = batch.features.tokens.flatten(2).mT
    with torch.no_grad():
        best, hard = cosine(tokens, method.generator(tokens)).max(2)
    used = [set(row.tolist()) for row in hard]
    assert float(scalars["concepts_used"]) == pytest.approx(sum(map(len, used)) / 5)
    unused = 1 - len(set.union(*used)) / 8
    assert float(scalars["prototypes_unused"]) == pytest.approx(unused)
    assert float(scalars["max_cosine"]) == pytest.approx(float(best.mean()))


@pytest.mark.parametrize(
    "settings", [{}, {"gamma": 1.7}, {"keep_loops": False}, {"tanh_scale": 0.1}, {"centre": True}]
)
def test_settings_reach_the_loss(settings: dict[str, Any]) -> None:
    method, batch = build(**settings), make_batch(range(3))
    tokens = batch.features.tokens.flatten(2).mT
    if settings.get("centre"):
        tokens = tokens - tokens.mean(1, keepdim=True)
    edges = affinity(tokens, keep_loops=settings.get("keep_loops", True))
    expected = modularity_loss(
        cosine(tokens, method.generator(tokens)),
        graph(edges, gamma=settings.get("gamma", 1.0)),
        tanh_scale=settings.get("tanh_scale"),
    )
    torch.testing.assert_close(method.loss(batch, "train").loss, expected.mean())
    if settings:
        assert method.loss(batch, "train").loss != build().loss(batch, "train").loss


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(
    "split",
    [{}, {"background": "split"}, {"background": "split", "background_pool": "mean"}],
    ids=["all", "sum", "mean"],
)
@pytest.mark.parametrize("spherical", [False, True])
def test_prediction_against_loops(centre: bool, split: dict[str, Any], spherical: bool) -> None:
    method = build(num_prototypes=7, centre=centre, spherical=spherical, **split)
    method.fit_clusters(Walks(range(8)))
    # Unequal lengths: cosines must not see them, distances must.
    method.centroids.mul_(torch.linspace(0.2, 3, len(method.centroids))[:, None])
    batch = make_batch(range(3))
    scores = method.predict(batch)
    saliency = batch.features.saliency
    assert saliency is not None
    for image in range(3):
        tokens = batch.features.tokens[image].flatten(1).T
        seen = (tokens - tokens.mean(0) if centre else tokens)[None]
        with torch.no_grad():
            soft = cosine(seen, method.generator(seen))[0]
        hard = soft.argmax(1)
        used = hard.unique().tolist()
        inside = [saliency[image].flatten()[hard == c] for c in used]
        mean = split.get("background_pool") == "mean"
        foreground = upper_group([float(x.mean() if mean else x.sum()) for x in inside])
        expected = torch.full((4, 16), -1.0)
        for position, concept in enumerate(used):
            region = tokens[hard == concept].mean(0, keepdim=True)
            cluster = int(assign(region, method.centroids, spherical=spherical))
            if split:
                cluster = cluster + 1 if foreground[position] else 0
            expected[cluster] = torch.maximum(expected[cluster], soft[:, concept])
        torch.testing.assert_close(scores[image].flatten(1), expected)


@pytest.mark.parametrize("spherical", [False, True])
def test_every_region_is_its_own_group_if_there_are_enough(spherical: bool) -> None:
    method, batch = build(num_clusters=2, num_prototypes=1, spherical=spherical), make_batch([0, 1])
    method.fit_clusters(Given(batch))
    means = batch.features.tokens.mean((2, 3))
    means = means / means.norm(dim=1, keepdim=True) if spherical else means
    order = assign(means, method.centroids)
    assert sorted(order.tolist()) == [0, 1]
    torch.testing.assert_close(method.centroids[order], means)


def upper_group(numbers: list[float]) -> list[bool]:
    """Tries every cut of the sorted numbers."""
    ordered = sorted(numbers)
    if ordered[0] == ordered[-1]:
        return [True] * len(numbers)

    def spread(group: list[float]) -> float:
        return sum((n - sum(group) / len(group)) ** 2 for n in group)

    cut = min(range(1, len(ordered)), key=lambda at: spread(ordered[:at]) + spread(ordered[at:]))
    return [number >= ordered[cut] for number in numbers]


def test_background_is_where_attention_is_low() -> None:
    method = build(num_clusters=2, background="split")
    batch = make_batch(range(6))
    look = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(4, 4, dtype=torch.int64)
    mask[1:3, 1:4] = 1
    tokens = look[mask].permute(2, 0, 1).expand(6, -1, -1, -1).contiguous()
    with torch.no_grad():
        # Concepts that are the two looks themselves: their regions are the mask.
        method.generator.forward = lambda tokens: look.expand(len(tokens), -1, -1)  # type: ignore[method-assign]
    saliency = mask.float().expand(6, -1, -1) + 0.01
    batch = Batch(batch.ids, batch.pixels, FeatureMap(tokens, saliency))
    method.fit_clusters(Given(batch))
    assert torch.equal(method.predict(batch).argmax(1), mask.expand(6, -1, -1))


def test_regions_are_described_by_the_cls_token_of_their_box() -> None:
    seen: list[list[int]] = []

    def crop_tokens(boxes: Tensor) -> Tensor:
        seen.extend(boxes.tolist())
        return boxes[:, 1:2].float() + torch.arange(12)

    method = build(num_clusters=2, region_vector="cls", spherical=False)
    mask = torch.zeros(4, 4, dtype=torch.int64)
    mask[1:3, 2:4] = 1
    look = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    tokens = look[mask].permute(2, 0, 1).expand(3, -1, -1, -1).contiguous()
    method.generator.forward = lambda tokens: look.expand(len(tokens), -1, -1)  # type: ignore[method-assign]
    batch = replace(make_batch(range(3)), features=FeatureMap(tokens), crop_tokens=crop_tokens)
    method.fit_clusters(Given(batch))
    assert seen == [
        box for image in range(3) for box in ([image, 0, 0, 32, 32], [image, 16, 8, 32, 24])
    ]
    assert sorted(method.centroids[:, 0].tolist()) == [0.0, 16.0]
    winners = method.predict(batch).argmax(1)
    assert torch.equal(winners == winners[0, 0, 0], (mask == 0).expand(3, -1, -1))


def test_max_regions_bounds_what_is_clustered() -> None:
    with pytest.raises(UserError, match=r"asked for 4 groups.* only 3 distinct regions"):
        build(max_regions=3).fit_clusters(Walks(range(20)))


def test_settled_concepts_are_the_mean_directions_of_their_tokens() -> None:
    method, batch = build(num_prototypes=6), make_batch(range(3))
    tokens = batch.features.tokens.flatten(2).mT
    with torch.no_grad():
        moved = settled(tokens, method.generator(tokens), 30)
    unit = tokens / tokens.norm(dim=2, keepdim=True)
    for image in range(3):
        hard = cosine(tokens, moved)[image].argmax(1)
        for concept in hard.unique():
            mean = unit[image, hard == concept].sum(0)
            torch.testing.assert_close(moved[image, concept], mean, rtol=1e-4, atol=1e-4)


def test_tokens_are_whitened_and_then_averaged() -> None:
    method, batch = build(whiten=0.5, context=0.75), make_batch(range(6))
    method.on_epoch_start("train", 0, Given(batch))
    assert method.whitening is not None
    white = method.whitening(batch.features.tokens)
    assert not torch.allclose(white, batch.features.tokens)
    torch.testing.assert_close(method.describe(batch), white)
    torch.testing.assert_close(method.encode(batch), averaged(white, 0.75))
    first = method.whitening.matrix.clone()
    method.on_epoch_start("train", 1, Given(make_batch([7])))
    assert torch.equal(method.whitening.matrix, first)


def test_a_state_of_tokens_as_they_are_has_nothing_of_whitening() -> None:
    assert not [name for name in build().state_dict() if "whitening" in name]


@pytest.mark.parametrize("whiten", [0.0, 0.5])
def test_images_without_any_contrast_are_too_few_regions(whiten: float) -> None:
    method, batch = build(whiten=whiten), make_batch(range(3))
    flat = replace(batch, features=FeatureMap(torch.ones_like(batch.features.tokens)))
    method.on_epoch_start("train", 0, Given(flat))
    assert method.loss(flat, "train").loss.isfinite()
    with pytest.raises(UserError, match="only 1 distinct regions"):
        method.fit_clusters(Given(flat))
