"""Every method, in every setting that changes its path, keeps the contract of `methods.base`."""

import copy
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.contract.cases import (
    CASE_IDS,
    CASES,
    DIM,
    GRID,
    LEARNER_IDS,
    LEARNERS,
    NUM_CLUSTERS,
    Case,
    make_batch,
    make_passes,
    with_tokens,
)
from usseg_ray.batch import Batch, FeatureMap
from usseg_ray.config import UserError
from usseg_ray.methods import METHODS, get
from usseg_ray.methods.base import Method

PROJECT = Path(__file__).parents[2]
every_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
every_learner = pytest.mark.parametrize("case", LEARNERS, ids=LEARNER_IDS)


def fitted(case: Case, seed: int = 0) -> Method:
    method = case.build(seed=seed)
    method.fit_clusters(make_passes(range(7)))
    return method


def optimizer(method: Method) -> torch.optim.Optimizer:
    groups = [
        {"params": group.params, "lr": 1e-2, "weight_decay": group.weight_decay}
        for group in method.param_groups(method.stages[0].name)
    ]
    return torch.optim.AdamW(groups)


def step(method: Method, adam: torch.optim.Optimizer, batch: Batch) -> Tensor:
    adam.zero_grad()
    loss = method.loss(batch, method.stages[0].name).loss
    loss.backward()
    adam.step()
    method.after_step()
    return loss.detach()


def test_four_touches_agree() -> None:
    names = {method.name for method in METHODS}
    own = {path.stem for path in (PROJECT / "usseg_ray" / "methods").glob("*.py")}
    spaces = {path.stem for path in (PROJECT / "search_spaces").glob("*.yaml")}
    golden = {
        path.stem.removeprefix("test_") for path in (PROJECT / "tests/numerics").glob("test_*.py")
    }
    assert len(names) == len(METHODS)
    assert own - {"__init__", "base"} == names
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


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'acsge'; did you mean 'acseg'\?.*kmeans"):
        get("acsge")
    with pytest.raises(UserError, match=r"'zzz'\. Methods: acseg"):
        get("zzz")


def test_a_batch_has_no_place_for_labels() -> None:
    assert {field.name for field in fields(Batch)} == {"ids", "pixels", "features"}
    assert {field.name for field in fields(FeatureMap)} == {"tokens", "saliency"}


@every_case
def test_shapes(case: Case) -> None:
    method, batch = fitted(case), make_batch(range(3))
    batch.features.tokens.requires_grad_()
    scores, codes = method.predict(batch), method.encode(batch)
    assert scores.shape == (3, NUM_CLUSTERS, *GRID)
    assert codes.shape[0] == 3
    assert codes.shape[2:] == GRID
    for result in (scores, codes):
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        assert not result.requires_grad


@every_case
def test_scores_tell_images_and_clusters_apart(case: Case) -> None:
    winners = fitted(case).predict(make_batch(range(7))).argmax(1)
    assert len(winners.unique()) == NUM_CLUSTERS


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


@every_learner
def test_gradient_reaches_what_is_listed_and_nothing_else(case: Case) -> None:
    method, batch = case.build(), make_batch(range(4))
    batch.features.tokens.requires_grad_()
    batch.pixels.requires_grad_()
    for stage in method.stages:
        listed = [p for group in method.param_groups(stage.name) for p in group.params]
        assert len({id(p) for p in listed}) == len(listed)
        method.zero_grad()
        result = method.loss(batch, stage.name)
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
        if method.stages:
            adam = optimizer(method)
            losses = [step(method, adam, make_batch(range(i, i + 3))) for i in range(2)]
            assert losses[0] != losses[1]
        method.fit_clusters(make_passes(range(7)))
        runs.append((method.state_dict(), method.predict(make_batch(range(2)))))
        assert torch.equal(torch.get_rng_state(), before)
    (first, first_scores), (again, again_scores) = runs
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first_scores, again_scores)


@every_case
def test_order_of_images_does_not_matter(case: Case) -> None:
    forward, backward = case.build(), case.build()
    forward.fit_clusters(make_passes(range(7), batch_size=1))
    backward.fit_clusters(make_passes(range(7)[::-1], batch_size=1))
    batch = make_batch(range(3))
    assert torch.equal(forward.predict(batch), backward.predict(batch))


@every_learner
def test_another_seed_starts_elsewhere(case: Case) -> None:
    first, other = case.build(seed=0), case.build(seed=1)
    assert not torch.equal(
        torch.cat([p.flatten() for p in first.parameters()]),
        torch.cat([p.flatten() for p in other.parameters()]),
    )


@every_learner
def test_training_lowers_the_loss(case: Case) -> None:
    method, batch = case.build(), make_batch(range(8))
    adam = optimizer(method)
    losses = [float(step(method, adam, batch)) for _ in range(20)]
    assert losses[-1] < losses[0]


@every_learner
def test_state_dict_resumes_with_the_identical_loss(case: Case) -> None:
    method = case.build()
    adam = optimizer(method)
    for start in range(2):
        step(method, adam, make_batch(range(start, start + 3)))
    method.fit_clusters(make_passes(range(7)))
    saved = copy.deepcopy((method.state_dict(), adam.state_dict()))
    going_on = [step(method, adam, make_batch(range(i, i + 3))) for i in (2, 3)]

    resumed = case.build(seed=99)
    resumed.seed = method.seed
    resumed.load_state_dict(saved[0], strict=True)
    adam = optimizer(resumed)
    adam.load_state_dict(saved[1])
    restored = [step(resumed, adam, make_batch(range(i, i + 3))) for i in (2, 3)]
    assert torch.equal(torch.stack(restored), torch.stack(going_on))
    batch = make_batch(range(2))
    assert torch.equal(resumed.predict(batch), method.predict(batch))


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
    saliency = torch.full((2, *GRID), 1 / 20)
    return Batch(batch.ids, pixels, FeatureMap(flat, saliency))


@every_case
@pytest.mark.parametrize("num_clusters", [2, 4, 300])
@pytest.mark.parametrize(
    "kind", ["one image", "equal tokens", "zero tokens", "one constant image", "twice the same"]
)
def test_degenerate_images(case: Case, kind: str, num_clusters: int) -> None:
    method, batch = case.build(num_clusters), degenerate(kind)
    if method.stages:
        result = method.loss(batch, method.stages[0].name)
        result.loss.backward()
        assert result.loss.isfinite()
        assert all(value.isfinite() for value in result.scalars.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    message = refusal(method, batch)
    if message is None:
        assert num_clusters < 300
    else:
        assert re.search(rf"asked for ({num_clusters}|{num_clusters - 1}) groups", message)
        assert "Lower num_clusters" in message
    assert all(buffer.isfinite().all() for buffer in method.buffers())
    assert method.predict(batch).isfinite().all()


def refusal(method: Method, batch: Batch) -> str | None:
    try:
        method.fit_clusters(lambda: iter([batch]))
    except UserError as error:
        return str(error)
    return None
