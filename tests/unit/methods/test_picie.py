"""PiCIE's own promises: views, clusters of an epoch, variants, and what an epoch leaves behind."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import FEATURES, NUM_CLUSTERS, Walks, make_batch
from usseg_ray.core.config import JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, Needs
from usseg_ray.methods.parts.minibatch_kmeans import nearest
from usseg_ray.methods.picie import PiCIE, view_codes
from usseg_ray.settings.picie import PiCIEConfig

NETWORK = {"name": "test_resnet", "pretrained": False, "dim": 16}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"variant": "mdc"},
    {"variant": "mdc", "mdc_classifier": "centroids"},
    {"variant": "over_clustering", "over_clusters": 7},
    {"mse": True, "class_weights": "none"},
    {"class_weights": "balanced"},
]
every_variant = pytest.mark.parametrize("settings", VARIANTS, ids=str)


def build(num_clusters: int = NUM_CLUSTERS, **settings: Any) -> PiCIE:
    config = {"network": NETWORK, "cluster_batch": 4, "init_batches": 2, **settings}
    return PiCIE(PiCIEConfig.model_validate(config), FEATURES, num_clusters, seed=0)


def begun(walks: Walks | None = None, **settings: Any) -> PiCIE:
    method = build(**settings).train()
    method.on_epoch_start("train", 0, walks or Walks(range(10)))
    return method


def test_defaults_are_the_official_coco_settings() -> None:
    config = PiCIEConfig()
    assert (config.lr, config.cluster_batch, config.init_batches) == (1e-4, 256, 20)
    assert (config.kmeans_iterations, config.class_weights, config.mse) == (20, "frequency", False)
    assert (config.network.name, config.network.dim) == ("resnet18.tv_in1k", 128)
    assert (config.jitter.probability, config.jitter.grey, config.jitter.blur) == (0.8, 0, 0.5)


def test_needs_are_pairs_alone() -> None:
    config = PiCIEConfig(jitter=JitterConfig(hue=0.2))
    assert PiCIE.needs(config) == Needs(features=False, pair=config.jitter)
    with pytest.raises(TypeError, match=r"Batch\.pair"):
        build().loss(replace(make_batch([0]), pair=None), "train")


def test_adam_without_decay_trains_the_network_and_the_learnt_classifier() -> None:
    for variant, extra in (("picie", 0), ("mdc", 2)):
        method = build(variant=variant)
        (group,) = method.param_groups("train")
        assert (group.optimiser, group.lr, group.weight_decay) == ("adam", 1e-4, 0)
        assert len(group.params) == len(list(method.network.parameters())) + extra
        assert not any(p.requires_grad for p in method.labeller.parameters())


@every_variant
def test_an_epoch_sets_centroids_counts_and_labeller(settings: dict[str, Any]) -> None:
    fresh, method = build(**settings), begun(**settings)
    views = 1 if settings.get("variant") == "mdc" else 2
    clustering = method.clustering
    assert clustering.centroids.shape == (views, NUM_CLUSTERS, 16)
    assert not torch.equal(clustering.centroids, fresh.clustering.centroids)
    assert (clustering.centroids.norm(dim=2) < 1).all()
    counted = settings.get("class_weights") != "none"
    assert clustering.counts.sum(1).tolist() == [10 * 64 if counted else NUM_CLUSTERS] * views
    assert (clustering.distance > 0).all()
    own, frozen = method.network.state_dict(), method.labeller.state_dict()
    assert all(torch.equal(own[name], frozen[name]) for name in own)
    assert (method.finer is not None) == (settings.get("variant") == "over_clustering")


def test_clustering_moves_the_running_statistics_view_by_view() -> None:
    method, batches = build(cluster_batch=5), [make_batch(range(5)), make_batch(range(5, 10))]
    apart = copy.deepcopy(method.network)
    method.on_epoch_start("train", 0, Walks(range(10)))
    with torch.no_grad():
        for view in (0, 1):
            for batch in batches:
                assert batch.pair is not None
                view_codes(apart.train(), batch.pair, view)
    found = method.network.state_dict()
    for name, expected in apart.state_dict().items():
        torch.testing.assert_close(found[name], expected)


def test_counts_are_those_of_the_labels_that_train() -> None:
    method = begun()
    batch = make_batch(range(10))
    assert batch.pair is not None
    with torch.no_grad():
        codes = [view_codes(method.labeller.eval(), batch.pair, view) for view in (0, 1)]
    for view in (0, 1):
        labels = nearest(codes[view], method.clustering.centroids[view])
        counts = torch.bincount(labels.flatten(), minlength=NUM_CLUSTERS)
        assert torch.equal(counts, method.clustering.counts[view])


def test_views_agree_where_nothing_differs() -> None:
    """A whole crop of the same pixels: view 1 then is view 2."""
    method = build()
    pair = make_batch(range(3)).pair
    assert pair is not None
    same = replace(
        pair,
        first=pair.second,
        crop=torch.tensor([[1.0, 0, 0]] * 3, dtype=torch.float64),
        flip=torch.zeros(3, dtype=torch.bool),
    )
    with torch.no_grad():
        first, second = (view_codes(method.network.eval(), same, view) for view in (0, 1))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3, 8, 8))


def test_views_describe_the_same_place() -> None:
    """Where view 1 shows the mirrored upper right, view 2 is cut there from the codes."""
    method, pair = build(), make_batch([0]).pair
    assert pair is not None
    pair = replace(
        pair, crop=torch.tensor([[0.5, 0, 1]], dtype=torch.float64), flip=torch.tensor([True])
    )
    with torch.no_grad():
        raw = method.network.eval()(pair.second)
        found = view_codes(method.network.eval(), pair, 1)
    cut = torch.nn.functional.interpolate(raw[:, :, :4, 4:], size=(8, 8), mode="bilinear")
    torch.testing.assert_close(found, torch.nn.functional.normalize(cut.flip(3)))


@every_variant
def test_scalars_name_the_terms(settings: dict[str, Any]) -> None:
    result = begun(**settings).loss(make_batch(range(3)), "train")
    names = {"loss", "kmeans_distance_1"}
    if settings.get("variant") != "mdc":
        names |= {"within", "across", "kmeans_distance_2"}
    assert set(result.scalars) == names | ({"mse"} if "mse" in settings else set())
    assert result.scalars["loss"] == result.loss.detach()


def test_over_clustering_weighs_its_levels() -> None:
    settings: dict[str, Any] = {"variant": "over_clustering", "over_clusters": 7}
    batch = make_batch(range(4))
    parts = {}
    for weight in (0.0, 1.0, 0.25, None):
        parts[weight] = begun(**settings, over_weight=weight).loss(batch, "train").loss.item()
    assert parts[0.25] == pytest.approx(0.75 * parts[0.0] + 0.25 * parts[1.0], abs=1e-5)
    fine = math.log(NUM_CLUSTERS) / (math.log(NUM_CLUSTERS) + math.log(7))
    assert parts[None] == pytest.approx((1 - fine) * parts[0.0] + fine * parts[1.0], abs=1e-5)
    assert begun().loss(batch, "train").loss.item() == pytest.approx(parts[0.0], abs=1e-5)


def test_mdc_starts_a_new_classifier_every_epoch() -> None:
    method = begun(variant="mdc")
    assert method.classifier is not None
    first = method.classifier.weight.detach().clone()
    assert first.std().item() == pytest.approx(0.01, rel=0.3)
    method.on_epoch_start("train", 1, Walks(range(10)))
    assert not torch.equal(method.classifier.weight, first)
    again = begun(variant="mdc")
    assert again.classifier is not None
    assert torch.equal(again.classifier.weight, first)


def test_prediction_is_the_product_with_the_centroids_of_view_1() -> None:
    method, batch = begun(), make_batch(range(2))
    codes, scores = method.encode(batch), method.predict(batch)
    expected = torch.einsum("bchw,kc->bkhw", codes, method.clustering.centroids[0])
    torch.testing.assert_close(scores, expected)
    height, width = batch.pixels.shape[2:]
    assert codes.shape == (2, 16, height // 4, width // 4)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones_like(codes[:, 0]))


def test_mdc_predicts_with_what_it_learnt() -> None:
    method, batch = begun(variant="mdc"), make_batch(range(2))
    assert method.classifier is not None
    with torch.no_grad():
        torch.testing.assert_close(method.predict(batch), method.classifier(method.encode(batch)))


def test_prediction_leaves_the_running_statistics() -> None:
    method = begun()
    before = copy.deepcopy(method.state_dict())
    method.predict(make_batch(range(3)))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_prediction_before_any_epoch_is_finite() -> None:
    assert build().predict(make_batch(range(2))).isfinite().all()


def without_weight(method: PiCIE) -> PiCIE:
    """Gives all weight to a cluster that no cell has."""
    for centroids, counts in zip(
        method.clustering.centroids, method.clustering.counts, strict=True
    ):
        centroids[0] = 100
        counts.zero_()
        counts[0] = 5
    return method


def test_a_batch_without_weighted_labels_costs_nothing() -> None:
    method = without_weight(begun())
    result = method.loss(make_batch(range(2)), "train")
    result.loss.backward()
    assert result.loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.network.parameters())


def test_more_clusters_than_cells_are_refused() -> None:
    with pytest.raises(UserError, match=r"asked for 300 groups.*only 128 feature cells"):
        begun(Walks(range(2)), num_clusters=300)


def losses(method: PiCIE, batches: list[Batch]) -> list[Tensor]:
    return [method.loss(batch, "train").loss.detach() for batch in batches]


@every_variant
def test_a_state_within_an_epoch_resumes_exactly(settings: dict[str, Any]) -> None:
    method = begun(**settings)
    method.loss(make_batch(range(3)), "train")
    resumed = build(**settings)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()), strict=True)
    batches = [make_batch(range(i, i + 3)) for i in (2, 4)]
    assert losses(method, batches) == losses(resumed, batches)
