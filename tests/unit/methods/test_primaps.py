"""PriMaPs-EM's own promises: its start, what learns from what, prediction, calibration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from tests.contract.cases import DIM, FEATURES, NUM_CLUSTERS, Walks, make_batch
from tests.unit.engine.test_origin import written
from usseg_ray.core.calibration import Facts
from usseg_ray.core.config import Origin
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, Needs, StepResult
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.engine.origin import trained_method
from usseg_ray.methods.kmeans import KMeans
from usseg_ray.methods.primaps import PriMaPs
from usseg_ray.ops.context import averaged
from usseg_ray.ops.principal_masks import NONE, find_masks, principal_masks, usual_in_masks
from usseg_ray.settings.kmeans import KMeansConfig
from usseg_ray.settings.primaps import PriMaPsConfig

WALKS = Walks(range(12))


def started(**settings: Any) -> PriMaPs:
    method = PriMaPs(PriMaPsConfig(**settings), FEATURES, NUM_CLUSTERS, seed=0)
    method.on_epoch_start("train", 0, WALKS)
    return method


def test_nothing_but_tokens_and_masks_of_them_is_needed() -> None:
    needs = PriMaPs.needs(PriMaPsConfig())
    assert replace(needs, masks=None) == Needs()


@pytest.mark.parametrize("context", [None, 0.75])
def test_stored_masks_are_those_that_it_finds_and_are_taken_in_their_place(
    context: float | None,
) -> None:
    method, batch = started(context=context, psi=0.6, centre=True), make_batch(range(4))
    recipe = method.needs(method.config).masks
    assert recipe is not None
    masks = find_masks(batch.features.tokens, recipe)
    found = method.loss(batch, "train")

    def with_masks(stored: torch.Tensor) -> StepResult:
        return method.loss(replace(batch, features=replace(batch.features, masks=stored)), "train")

    assert torch.equal(with_masks(masks).loss, found.loss)
    assert with_masks(torch.zeros_like(masks)).scalars["covered"] == 0


@pytest.mark.parametrize("context", [None, 0.75])
def test_it_starts_as_kmeans_of_the_same_codes(context: float | None) -> None:
    method = started(context=context)
    config = KMeansConfig(context=context, points_per_cluster=500)
    floor = KMeans(config, FEATURES, NUM_CLUSTERS, seed=0)
    floor.fit_clusters(WALKS)
    # Each draws a sample by its own name, but these images are few enough for all to be in it.
    batch = make_batch(range(5))
    both = list(
        zip(
            method.predict(batch).argmax(1).flatten().tolist(),
            floor.predict(batch).argmax(1).flatten().tolist(),
            strict=True,
        )
    )
    assert len(set(both)) == NUM_CLUSTERS
    assert torch.equal(method.student.centroids, method.teacher.centroids)


def test_only_the_first_epoch_starts_anew() -> None:
    method = started()
    with torch.no_grad():
        method.student.centroids.add_(1)
    before = method.student.centroids.clone()
    method.on_epoch_start("train", 1, WALKS)
    assert torch.equal(method.student.centroids, before)


def test_codes_scores_and_labels_do_not_depend_on_the_tokens_scale() -> None:
    method, batch = started(), make_batch(range(3))
    larger = replace(batch, features=FeatureMap(5 * batch.features.tokens))
    torch.testing.assert_close(method.predict(larger), method.predict(batch))
    torch.testing.assert_close(method.loss(larger, "train").loss, method.loss(batch, "train").loss)


def test_scores_are_linear_with_directions_and_lengths() -> None:
    method, batch = started(scale=5.0), make_batch(range(2))
    with torch.no_grad():
        method.student.lengths.copy_(torch.linspace(0.5, 2, NUM_CLUSTERS)[:, None])
    tokens = batch.features.tokens
    scores = method.predict(batch)
    for image, own in zip(tokens, scores, strict=True):
        unit = image * 5 / image.norm(dim=0).mean()
        for length, direction, score in zip(
            method.student.lengths, method.student.centroids, own, strict=True
        ):
            expected = length * torch.einsum("chw,c->hw", unit, normalize(direction, dim=0))
            torch.testing.assert_close(score, expected.detach())


def two_parts() -> Batch:
    """An image of two halves, one of which is seen as two labels by tokens of a few places."""
    tokens = torch.zeros(1, DIM, 6, 6)
    tokens[0, 0, :, :3], tokens[0, 1, :, 3:] = 1.0, 1.0
    tokens[0, 2, :2, 3:] = 0.9
    return replace(make_batch([0]), features=FeatureMap(tokens))


def test_a_mask_learns_the_label_of_most_of_it() -> None:
    method, batch = started(psi=0.6, scale=8.0, lr=0.05), two_parts()
    with torch.no_grad():
        method.student.centroids.copy_(torch.eye(NUM_CLUSTERS, DIM))
        method.student.centroids[2, 1] = 0.8
        method.teacher.centroids.copy_(method.student.centroids)
    before = method.predict(batch).argmax(1)[0]
    assert before[:2, 3:].unique().tolist() == [2]
    assert before[2:, 3:].unique().tolist() == [1]
    result = method.loss(batch, "train")
    assert float(result.scalars["masks"]) == 2
    assert float(result.scalars["covered"]) == 1
    assert float(result.scalars["relabelled"]) == pytest.approx(6 / 36)
    adam = Optimiser(method.param_groups("train"))
    for _ in range(40):
        method.loss(batch, "train").loss.backward()
        adam.step()
    after = method.predict(batch).argmax(1)[0]
    assert after[:, :3].unique().tolist() == [0]
    assert after[:, 3:].unique().tolist() == [1]


def test_what_is_outside_of_masks_teaches_nothing() -> None:
    method, batch = started(psi=0.95), make_batch(range(4))
    tokens = batch.features.tokens
    masks = principal_masks(tokens, 0.95)
    assert 0 < (masks == 0).float().mean() < 1
    labels = usual_in_masks(method.classify(tokens).argmax(1), masks, NUM_CLUSTERS)
    scores = method.classify(tokens).log_softmax(1)
    weights = (1 - scores.exp().mean((0, 2, 3))) ** 2
    inside = labels != NONE
    chosen = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    expected = -(weights[labels.clamp(min=0)] * chosen)[inside].sum() / labels.numel()
    torch.testing.assert_close(method.loss(batch, "train").loss, expected)


def test_calibrated_settings_build_it() -> None:
    facts = Facts(
        images=300, steps=250, batch_size=16, grid=20, statistics=None, has_attention=False
    )
    choices = {c.key.removeprefix("method."): c.value for c in PriMaPs.calibrated(facts)}
    config = PriMaPsConfig.model_validate(choices)
    assert config.centre
    assert config.lr * 250 == pytest.approx(0.5)


def booster(folder: Path, num_clusters: int = NUM_CLUSTERS, **settings: Any) -> PriMaPs:
    """Starts from a STEGO of `NUM_CLUSTERS` clusters."""
    _, origin, file = written(folder, "stego")
    return boosting(origin, file, num_clusters, **settings)


def boosting(origin: Origin, file: str, num_clusters: int, **settings: Any) -> PriMaPs:
    spec = replace(FEATURES, trained=lambda o, f: trained_method(FEATURES, o, f))
    config = PriMaPsConfig(init_from=file, origin=origin, **settings)
    method = PriMaPs(config, spec, num_clusters, seed=0)
    method.on_epoch_start("train", 0, WALKS)
    return method


@pytest.mark.parametrize("context", [None, 0.75])
def test_started_from_a_model_codes_are_its_codes_and_masks_those_of_tokens(
    tmp_path: Path, context: float | None
) -> None:
    method, batch = booster(tmp_path, context=context, psi=0.6), make_batch(range(3))
    trained, _, _ = written(tmp_path, "stego", context=context)
    assert torch.equal(method.encode(batch), trained.eval().encode(batch))
    tokens = batch.features.tokens
    masks = principal_masks(tokens if context is None else averaged(tokens, context), 0.6)
    assert not torch.equal(masks, principal_masks(method.encode(batch), 0.6))
    ids = method.classify(method.encode(batch)).argmax(1)
    relabelled = (usual_in_masks(ids, masks, NUM_CLUSTERS) != ids)[masks > 0].float().mean()
    assert method.loss(batch, "train").scalars["relabelled"] == relabelled


def test_started_from_a_model_it_begins_with_its_centroids_if_they_are_as_many(
    tmp_path: Path,
) -> None:
    method = booster(tmp_path)
    trained, _, _ = written(tmp_path, "stego")
    centroids = trained.get_parameter("probe.centroids")
    assert torch.equal(method.student.centroids, centroids)
    assert torch.equal(method.teacher.centroids, centroids)
    fewer = booster(tmp_path, num_clusters=NUM_CLUSTERS - 1).student.centroids
    torch.testing.assert_close(fewer.norm(dim=1), torch.ones(NUM_CLUSTERS - 1))


@pytest.mark.parametrize("name", ["stego", "cause"])
@pytest.mark.parametrize("taken", ["kmeans", "probe"])
def test_started_from_a_model_with_both_kinds_of_centroids_it_begins_with_those_that_score(
    tmp_path: Path, name: str, taken: str
) -> None:
    trained, origin, file = written(tmp_path, name, taken, clustering="auto")
    method, batch = boosting(origin, file, NUM_CLUSTERS), make_batch(range(6))
    expected = trained.eval().predict(batch).argmax(1)
    assert torch.equal(method.predict(batch).argmax(1), expected)
    assert torch.equal(method.student.centroids, method.teacher.centroids)


def test_started_from_a_model_only_the_classifier_learns(tmp_path: Path) -> None:
    method = booster(tmp_path)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    adam = Optimiser(method.param_groups("train"))
    method.loss(make_batch(range(4)), "train").loss.backward()
    adam.step()
    changed = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"student.centroids", "student.lengths"}


def test_its_state_holds_the_model_that_it_started_from(tmp_path: Path) -> None:
    method, batch = booster(tmp_path), make_batch(range(2))
    spec = replace(FEATURES, trained=lambda o, f: trained_method(FEATURES, o, f))
    (tmp_path / "model.safetensors").unlink()
    alone = method.config.model_copy(update={"init_from": None})
    again = PriMaPs(alone, spec, NUM_CLUSTERS, seed=9)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.predict(batch), method.predict(batch))


def test_a_place_that_nobody_looked_up_is_refused() -> None:
    with pytest.raises(UserError, match="looked up before the first trial"):
        started(init_from="runs/mine")
