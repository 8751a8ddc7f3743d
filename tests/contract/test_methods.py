"""Every method, in every setting that changes its path, keeps the contract of `methods.base`."""

import copy
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.contract.cases import (
    CASE_IDS,
    CASES,
    DIM,
    GRID,
    LEARNER_IDS,
    LEARNERS,
    NUM_CLUSTERS,
    STAGE_IDS,
    STAGES,
    Case,
    Given,
    Walks,
    block_input,
    check_defaults,
    make_batch,
    make_pair,
    optimizer,
    step,
    with_tokens,
)
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, Pair, Step
from usseg_ray.methods import METHODS, get
from usseg_ray.methods.base import CodeClassifier, Method
from usseg_ray.settings import SETTINGS

PROJECT = Path(__file__).parents[2]
every_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
every_stage = pytest.mark.parametrize(("case", "stage"), STAGES, ids=STAGE_IDS)
every_learner = pytest.mark.parametrize("case", LEARNERS, ids=LEARNER_IDS)


def fitted(case: Case, seed: int = 0) -> Method:
    method = case.build(seed=seed)
    method.fit_clusters(Walks(range(7)))
    return method


def learning(case: Case, stage: str, walks: Given | Walks | None = None, seed: int = 0) -> Method:
    """Builds a method that stands before the first step of a stage."""
    method = case.build(seed=seed).train()
    walks = walks or Walks(range(12))
    method.on_epoch_start(stage, 0, walks)
    method.before_step(stage, Step(0, 20, 0), walks)
    return method


def test_five_touches_agree() -> None:
    names = {method.name for method in METHODS}
    own = {path.stem for path in (PROJECT / "usseg_ray" / "methods").glob("*.py")}
    spaces = {path.stem for path in (PROJECT / "search_spaces").glob("*.yaml")}
    declared = {path.stem for path in (PROJECT / "usseg_ray" / "settings").glob("*.py")}
    golden = {
        path.stem.removeprefix("test_") for path in (PROJECT / "tests/numerics").glob("test_*.py")
    }
    assert len(names) == len(METHODS)
    assert own - {"__init__", "base", "codes"} == names
    assert declared - {"__init__", "assigned", "codes"} == names - {"image"}
    assert {method.name: method.Config for method in METHODS} == SETTINGS
    assert spaces == names
    assert names <= golden


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_name_and_config(method: type[Method]) -> None:
    assert get(method.name) is method
    assert method.__module__.endswith(f".{method.name}")
    config = method.Config()
    for name in method.Config.model_fields:
        assert method.Config.model_fields[name].description, f"{name} has no description"
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, name, getattr(config, name))
    with pytest.raises(ValidationError, match="extra"):
        method.Config.model_validate({"no_such_setting": 1})


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_schedule_and_defaults_stand_in_the_methods_file(method: type[Method]) -> None:
    assert "defaults" in vars(method) or not method.stages
    check_defaults(method)


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'acsge'; did you mean 'acseg'\?.*kmeans"):
        get("acsge")
    with pytest.raises(UserError, match=r"'zzz'\. Methods: picie"):
        get("zzz")


def test_a_batch_has_no_place_for_labels() -> None:
    assert {field.name for field in fields(Batch)} == {
        "ids",
        "pixels",
        "features",
        "step",
        "augmented",
        "positive",
        "pair",
        "crop_tokens",
    }
    parts = {"tokens", "saliency", "local", "block_input", "masks"}
    assert {field.name for field in fields(FeatureMap)} == parts
    assert {field.name for field in fields(Pair)} == {"first", "second", "crop", "flip"}


@every_case
def test_shapes(case: Case) -> None:
    method, batch = fitted(case), make_batch(range(3))
    batch.features.tokens.requires_grad_()
    scores, codes = method.predict(batch), method.encode(batch)
    assert scores.shape[:2] == (3, NUM_CLUSTERS)
    assert codes.shape[0] == 3
    if case.reads_features:
        assert scores.shape[2:] == codes.shape[2:] == GRID
    for result in (scores, codes):
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        assert not result.requires_grad


@every_case
def test_an_image_and_its_mirror_image_are_judged_together(case: Case) -> None:
    method, one, other = fitted(case), make_batch(range(3)), make_batch(range(3, 6))
    judged = method.predict_mirrored(one, other)
    assert judged.shape == method.predict(one).shape
    # Judged from the other side the scores are mirrored, and nothing else.
    torch.testing.assert_close(method.predict_mirrored(other, one).flip(-1), judged)
    if isinstance(method, CodeClassifier):
        codes = (method.encode(one) + method.encode(other).flip(-1)) / 2
        torch.testing.assert_close(judged, method.upsampled_later(codes).detach())
        # Where nothing is upsampled any more the best cluster is the same.
        assert torch.equal(method.classify(codes).argmax(1), judged.argmax(1))


@every_case
def test_scores_tell_images_and_clusters_apart(case: Case) -> None:
    winners = fitted(case).predict(make_batch(range(7))).argmax(1)
    assert len(winners.unique()) == NUM_CLUSTERS or case.learns_clusters


@every_case
def test_an_image_is_predicted_alike_in_any_batch(case: Case) -> None:
    method = fitted(case)
    together = method.predict(make_batch(range(4)))
    for image in range(4):
        torch.testing.assert_close(method.predict(make_batch([image]))[0], together[image])


@every_case
def test_floors_do_not_read_features(case: Case) -> None:
    method, batch = fitted(case), make_batch(range(2))
    blind = with_tokens(batch, torch.full_like(batch.features.tokens, float("nan")))
    same = torch.equal(method.predict(blind), method.predict(batch))
    assert same != case.reads_features


@every_stage
def test_gradient_reaches_what_is_listed_and_nothing_else(case: Case, stage: str) -> None:
    method, batch = learning(case, stage), make_batch(range(4))
    batch.features.tokens.requires_grad_()
    batch.pixels.requires_grad_()
    listed = [p for group in method.param_groups(stage) for p in group.params]
    assert len({id(p) for p in listed}) == len(listed)
    result = method.loss(batch, stage)
    result.loss.backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    named = {name for name, p in method.named_parameters() if any(p is q for q in listed)}
    assert reached == named
    assert all(p.grad is not None and p.grad.isfinite().all() for p in listed)
    assert any(p.grad is not None and p.grad.any() for p in listed)
    assert batch.features.tokens.grad is None
    assert batch.pixels.grad is None
    assert not any(value.requires_grad for value in result.scalars.values())


@pytest.mark.parametrize("case", [case for case in CASES if not case.method.stages])
def test_floors_have_nothing_to_learn(case: Case) -> None:
    method = case.build()
    assert not list(method.parameters())
    assert method.param_groups("train") == []
    with pytest.raises(TypeError, match=f"{method.name} has no stage 'train'"):
        method.loss(make_batch([0]), "train")


@every_case
def test_same_seed_same_result_and_no_global_draws(case: Case) -> None:
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        method = case.build()
        for stage in method.stages:
            method = learning(case, stage.name)
            adam = optimizer(method, stage.name)
            losses = [step(method, stage.name, adam, range(i, i + 3)) for i in range(2)]
            assert losses[0] != losses[1]
        method.fit_clusters(Walks(range(7)))
        runs.append((method.state_dict(), method.predict(make_batch(range(2)))))
        assert torch.equal(torch.get_rng_state(), before)
    (first, first_scores), (again, again_scores) = runs
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first_scores, again_scores)


@every_case
def test_order_of_images_does_not_matter(case: Case) -> None:
    forward, backward = case.build(), case.build()
    forward.fit_clusters(Walks(range(7), batch_size=1))
    backward.fit_clusters(Walks(range(7)[::-1], batch_size=1))
    batch = make_batch(range(3))
    assert torch.equal(forward.predict(batch), backward.predict(batch))


@every_learner
def test_another_seed_starts_elsewhere(case: Case) -> None:
    first, other = case.build(seed=0), case.build(seed=1)
    assert not torch.equal(
        torch.cat([p.flatten() for p in first.parameters()]),
        torch.cat([p.flatten() for p in other.parameters()]),
    )


@every_stage
def test_training_lowers_the_loss(case: Case, stage: str) -> None:
    method = learning(case, stage)
    adam, batch = optimizer(method, stage), make_batch(range(8))
    before = copy.deepcopy(method).loss(batch, stage).loss.detach()
    for _ in range(20):
        step(method, stage, adam, range(8))
    fresh = learning(case, stage)
    names = {
        name
        for name, p in method.named_parameters()
        if any(p is q for group in method.param_groups(stage) for q in group.params)
    }
    # What was learnt, and nothing that is remembered (teachers, banks, pools), in the first state.
    state = fresh.state_dict() | {k: v for k, v in method.state_dict().items() if k in names}
    fresh.load_state_dict(state)
    assert fresh.loss(batch, stage).loss.detach() < before


@every_stage
def test_state_dict_resumes_with_the_identical_loss(case: Case, stage: str) -> None:
    method = learning(case, stage)
    adam = optimizer(method, stage)
    for start in range(2):
        step(method, stage, adam, range(start, start + 3))
    method.fit_clusters(Walks(range(7)))
    saved = copy.deepcopy((method.state_dict(), adam.state_dict()))
    going_on = [step(method, stage, adam, range(i, i + 3)) for i in (2, 3)]

    resumed = case.build(seed=99).train()
    resumed.seed = method.seed
    resumed.load_state_dict(saved[0], strict=True)
    adam = optimizer(resumed, stage)
    adam.load_state_dict(saved[1])
    restored = [step(resumed, stage, adam, range(i, i + 3)) for i in (2, 3)]
    assert torch.equal(torch.stack(restored), torch.stack(going_on))
    batch = make_batch(range(2))
    assert torch.equal(resumed.eval().predict(batch), method.eval().predict(batch))


@every_case
def test_fitted_clusters_are_in_the_state(case: Case) -> None:
    method, batch = fitted(case), make_batch(range(3))
    restored = case.build(seed=5)
    restored.load_state_dict(method.state_dict(), strict=True)
    assert torch.equal(restored.predict(batch), method.predict(batch))


def degenerate(kind: str) -> Batch:
    batch = make_batch([0, 1])
    tokens = batch.features.tokens
    if kind == "one image":
        return make_batch([0])
    if kind == "equal tokens":
        flat = torch.ones(2, DIM, *GRID)
    elif kind == "zero tokens":
        flat = torch.zeros(2, DIM, *GRID)
    elif kind == "one constant image":
        flat = torch.cat([tokens[:1], tokens[1:, :, :1, :1].expand_as(tokens[1:])])
    else:
        flat = torch.cat([tokens[:1], tokens[:1]])
    pixels = batch.pixels.clone()
    pixels[1] = 0.5
    saliency, local = torch.full((2, *GRID), 1 / 20), torch.full((2, 9, *GRID), 1 / 9)
    features = FeatureMap(flat, saliency, local, block_input(flat))
    pair = make_pair([0, 1], pixels)
    views = FeatureMap(flat)
    return replace(
        batch, pixels=pixels, features=features, augmented=views, positive=views, pair=pair
    )


@every_case
@pytest.mark.parametrize("num_clusters", [2, 4, 300])
@pytest.mark.parametrize(
    "kind", ["one image", "equal tokens", "zero tokens", "one constant image", "twice the same"]
)
def test_degenerate_images(case: Case, kind: str, num_clusters: int) -> None:
    method, batch = case.build(num_clusters), degenerate(kind)
    messages = [refusal(method, batch)]
    for stage in method.stages:
        messages.append(learning_refusal(case.build(num_clusters).train(), batch, stage.name))
    refused = [message for message in messages if message is not None]
    assert num_clusters < 300 or refused or case.learns_clusters
    for message in refused:
        assert re.search(r"asked for (\d+) (groups|clusters)", message)
        assert "Lower num_clusters" in message
    assert all(buffer.isfinite().all() for buffer in method.buffers())
    assert method.eval().predict(batch).isfinite().all()


def refusal(method: Method, batch: Batch) -> str | None:
    try:
        method.fit_clusters(Given(batch))
    except UserError as error:
        return str(error)
    return None


def learning_refusal(method: Method, batch: Batch, stage: str) -> str | None:
    """Takes one step on a batch; the result is finite, or refused in words."""
    try:
        method.on_epoch_start(stage, 0, Given(batch))
        method.before_step(stage, Step(), Given(batch))
    except UserError as error:
        return str(error)
    result = method.loss(batch, stage)
    result.loss.backward()
    method.after_step()
    assert result.loss.isfinite()
    assert all(value.isfinite() for value in result.scalars.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    assert all(buffer.isfinite().all() for buffer in method.buffers())
    return None
