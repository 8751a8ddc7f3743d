"""CAUSE's stages, teacher and prediction; official vectors are in tests/numerics."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tests.contract.cases import Given
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Step
from usseg_ray.engine.optimiser import Optimiser
from usseg_ray.methods.cause import CAUSE
from usseg_ray.settings.cause import CAUSEConfig

DIM, SIDE, STEPS = 6, 8, 9
SMALL = {"clustering": "probe", "num_codes": 12, "dim": 5, "projection_dim": 7, "ffn_dim": 9}
HEADS = ("mlp", "tr")


def build(side: int = SIDE, seed: int = 0, **settings: Any) -> CAUSE:
    config = CAUSEConfig.model_validate({**SMALL, **settings})
    features = FeatureSpec(DIM, 8, has_attention=False, grid=side, eval_grid=side)
    return CAUSE(config, features, 3, seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch(step: int = 0, side: int = SIDE, images: int = 3) -> Batch:
    names = tuple(str(image) for image in range(images))
    tokens = draw(images, DIM, side, side, seed=step)
    pixels = torch.zeros(images, 3, 8 * side, 8 * side)
    return Batch(names, pixels, FeatureMap(tokens), Step(step, STEPS, step))


def learn(method: CAUSE, stage: str, steps: int) -> None:
    optimiser = Optimiser(method.param_groups(stage))
    for step in range(steps):
        method.loss(make_batch(step), stage).loss.backward()
        optimiser.step()
        method.after_step()


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_positions_need_crops_and_frames_of_one_size() -> None:
    features = FeatureSpec(DIM, 8, has_attention=True, grid=28, eval_grid=56)
    with pytest.raises(UserError, match=r"data\.train_size gives 28 and data\.eval_size 56 tokens"):
        CAUSE(CAUSEConfig(head="tr"), features, 3, 0)
    CAUSE(CAUSEConfig(head="mlp", num_codes=4), features, 3, 0)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({}, (1, 2, 1)),
        ({"head": "tr"}, (1, 2, 5)),
        ({"head": "tr", "probe_epochs": 3, "clusterbook_epochs": 4}, (4, 2, 3)),
        ({"clustering": "kmeans"}, (1, 2, 0)),
    ],
)
def test_epochs_of_the_stages(settings: dict[str, Any], epochs: tuple[int, ...]) -> None:
    assert (
        CAUSE.stage_epochs(CAUSEConfig.model_validate({"clustering": "probe"} | settings), 2)
        == epochs
    )


def test_kmeans_groups_the_teachers_codes() -> None:
    method = build(clustering="kmeans")
    learn(method, "concepts", 2)
    batch = make_batch()
    method.fit_clusters(Given(batch))
    groups = method.predict(batch).argmax(1)
    best = method.probe(method.encode(batch)).max(1).values
    assert len(groups.unique()) == 3
    assert best.mean() > build().probe(method.encode(batch)).max(1).values.mean()


def test_only_the_probe_is_scored() -> None:
    assert [stage.scored for stage in CAUSE.stages] == [False, False, True]


@pytest.mark.parametrize(("head", "clip"), [("mlp", 0.1), ("tr", 2.0)])
def test_official_optimisers(head: str, clip: float) -> None:
    method = build(head=head)
    groups = [method.param_groups(stage.name) for stage in CAUSE.stages]
    assert [len(stage) for stage in groups] == [1, 1, 1]
    (clusterbook,), (student,), (probe,) = groups
    assert {group.optimiser for (group,) in groups} == {"adam"}
    assert {group.lr for (group,) in groups} == {1e-3}
    assert (student.weight_decay, student.clip_norm) == (1e-4, clip)
    assert (clusterbook.weight_decay, probe.weight_decay) == (0, 0)
    assert (clusterbook.clip_norm, probe.clip_norm) == (None, None)
    assert (probe.lr_factor, probe.lr_epochs) == (0.5, 2)
    assert build(head=head, clip_norm=1.0).param_groups("concepts")[0].clip_norm == 1.0


@pytest.mark.parametrize("head", HEADS)
def test_the_teacher_equals_the_student_after_one_step_and_follows_after_two(head: str) -> None:
    method = build(head=head, lr=1e-2, ema_decay=0.9)
    start = weights(method.student)
    assert torch.equal(weights(method.teacher), start)
    optimiser = Optimiser(method.param_groups("concepts"))
    students = []
    for step in range(2):
        method.loss(make_batch(step), "concepts").loss.backward()
        optimiser.step()
        method.after_step()
        students.append(weights(method.student))
        if step == 0:
            assert torch.equal(weights(method.teacher), students[0])
    assert not torch.equal(students[0], start)
    torch.testing.assert_close(weights(method.teacher), 0.9 * students[0] + 0.1 * students[1])


@pytest.mark.parametrize("head", HEADS)
def test_a_stage_changes_what_it_trains_and_what_follows_it(head: str) -> None:
    method = build(head=head)
    moving = {
        "clusterbook": {"clusterbook"},
        "concepts": {"student", "teacher", "bank", "teacher_steps"},
        "probe": {"probe"},
    }
    for stage, expected in moving.items():
        before = {name: value.clone() for name, value in method.state_dict().items()}
        learn(method, stage, 2)
        after = method.state_dict()
        changed = {
            name.split(".")[0]
            for name in before
            if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
        }
        assert changed == expected


def test_the_bank_fills_and_is_freed_by_the_last_step_of_its_stage() -> None:
    method = build()
    learn(method, "concepts", STEPS - 1)
    assert len(method.bank) > 0
    learn(method, "concepts", STEPS)
    assert method.bank.values.numel() == 0


def test_the_bank_takes_part_in_the_loss() -> None:
    method = build()
    batch = make_batch(5)
    before = method.loss(batch, "concepts")
    assert before.scalars["bank_entries"] == 0
    values, codes = draw(40, 7), torch.arange(40) % 12
    method.bank.update(values, codes, torch.rand(40, generator=torch.Generator().manual_seed(0)))
    after = method.loss(batch, "concepts")
    assert after.scalars["bank_entries"] == len(method.bank) > 0
    assert after.loss != before.loss


def test_a_loss_without_its_step_leaves_nothing_behind() -> None:
    method = build()
    method.loss(make_batch(), "concepts")
    method.loss(make_batch(), "probe")
    state = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_step()
    assert all(torch.equal(state[name], value) for name, value in method.state_dict().items())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stage", [stage.name for stage in CAUSE.stages])
def test_given_draws_replay_a_step(head: str, stage: str) -> None:
    method, batch = build(head=head), make_batch(2)
    drawn = method.draw(batch, stage)
    assert method.loss(batch, stage).loss == method.loss(batch, stage, drawn).loss
    other = method.draw(make_batch(3), stage)
    assert method.loss(batch, stage).loss != method.loss(batch, stage, other).loss


@pytest.mark.parametrize("stage", [stage.name for stage in CAUSE.stages])
@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("head", HEADS)
def test_a_full_clusterbook_on_tiny_grids(head: str, side: int, stage: str) -> None:
    method = build(side=side, head=head, num_codes=2048, projection_dim=16)
    for step in range(2):
        result = method.loss(make_batch(step, side=side, images=2), stage)
        result.loss.backward()
        method.after_step()
        assert result.loss.isfinite()
        assert all(value.isfinite() for value in result.scalars.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_sampled_tokens_alone_need_the_mlp_head() -> None:
    method, batch = build(dropout=0), make_batch()
    drawn = method.draw(batch, "probe")
    whole = drawn.windows.pick(method.encode(batch))
    sampled = method.teacher.codes(drawn.windows.pick(batch.features.tokens))
    torch.testing.assert_close(sampled, whole)


@pytest.mark.parametrize("head", HEADS)
def test_scores_may_be_upsampled_instead_of_codes(head: str) -> None:
    method = build(head=head)
    with torch.no_grad():
        method.probe.centroids.copy_(draw(3, 5, seed=4))
    batch = make_batch(images=2)
    scores, codes = method.predict(batch), method.encode(batch)
    size = (5 * SIDE, 5 * SIDE)
    official = method.probe(interpolate(codes, size, mode="bilinear", align_corners=False))
    ours = interpolate(scores, size, mode="bilinear", align_corners=False)
    assert torch.equal(ours.argmax(1), official.argmax(1))
    assert len(ours.argmax(1).unique()) == 3
    # Their size is that of three times a cosine.
    assert float(scores.abs().max()) < 9
    assert float(scores.abs().mean()) == pytest.approx(
        3 * float(method.probe(codes).detach().abs().mean()), rel=0.2
    )


def test_no_supervised_part_exists() -> None:
    names = {name.split(".")[0] for name in build().state_dict()}
    assert names == {"clusterbook", "student", "teacher", "bank", "probe", "teacher_steps"}
    assert not any(p.requires_grad for p in build().teacher.parameters())
