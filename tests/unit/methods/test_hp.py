"""HP's schedules and needs, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import FEATURES, NUM_CLUSTERS, Given, Walks, make_batch
from usseg_ray.core.calibration import Facts
from usseg_ray.core.config import JitterConfig
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import FeatureMap, Step
from usseg_ray.methods.hp import HP
from usseg_ray.ops.attention import cosine_weights
from usseg_ray.settings.hp import HPConfig

WALKS = Walks(range(9))


def build(**settings: Any) -> HP:
    small = {"clustering": "probe", "dim": 8, "pool_size": 12, "ramp_start": 0}
    config = HPConfig(**(small | settings))
    return HP(config, FEATURES, NUM_CLUSTERS, seed=0)


def learning(**settings: Any) -> HP:
    """Builds a method that stands before its first step."""
    method = build(**settings)
    method.before_step("train", Step(0, 20, 0), WALKS)
    return method


def calibrated(facts: Facts) -> HPConfig:
    choices = {one.key.removeprefix("method."): one.value for one in HP.calibrated(facts)}
    return HPConfig.model_validate(choices)


def test_needs_follow_from_the_settings() -> None:
    needs = HP.needs(HPConfig())
    assert needs.local_attention
    assert needs.photometric == JitterConfig()
    needs = HP.needs(HPConfig(affinity="cosine", consistency_weight=0))
    assert not needs.local_attention
    assert needs.photometric is None


def test_attention_is_refused_where_there_is_none() -> None:
    blind = replace(FEATURES, has_attention=False)
    with pytest.raises(UserError, match=r"no attention.*method\.affinity=cosine"):
        HP(HPConfig(), blind, NUM_CLUSTERS, seed=0)
    HP(HPConfig(affinity="cosine"), blind, NUM_CLUSTERS, seed=0)


def test_what_the_engine_must_give() -> None:
    method, batch = learning(), make_batch(range(2))
    with pytest.raises(TypeError, match=r"FeatureMap\.local"):
        method.loss(replace(batch, features=FeatureMap(batch.features.tokens)), "train")
    with pytest.raises(TypeError, match=r"Batch\.augmented"):
        method.loss(replace(batch, augmented=None), "train")


def test_no_images_fill_no_pool() -> None:
    with pytest.raises(UserError, match="no training images"):
        build().before_step("train", Step(0, 20, 0), Given())


@pytest.mark.parametrize(
    ("start", "index", "total", "expected"),
    [(50, 0, 150, 0), (50, 50, 150, 0), (50, 51, 150, 0.01), (50, 150, 150, 1), (50, 10, 20, 0)],
)
def test_task_specific_positives_are_ramped_up(
    start: int, index: int, total: int, expected: float
) -> None:
    assert build(ramp_start=start).task_weight(Step(index, total, 0)) == pytest.approx(expected)


def test_pools_are_filled_first_and_the_specific_one_renewed() -> None:
    method = build(renewal_steps=5)
    pools = [method.agnostic_pool.rows, method.specific_pool.rows]
    changed = []
    for index in range(23):
        before = [pool.clone() for pool in pools]
        method.before_step("train", Step(index, 36, index % 12), WALKS)
        changed.append([not torch.equal(a, b) for a, b in zip(before, pools, strict=True)])
    assert [index for index, (agnostic, _) in enumerate(changed) if agnostic] == [0]
    assert [index for index, (_, own) in enumerate(changed) if own] == [0, 5, 10, 17, 22]
    for pool in pools:
        torch.testing.assert_close(pool.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize(
    ("batch_size", "grid", "share"), [(64, 28, 0.01999), (128, 40, 0.004897), (2, 14, 1.0)]
)
def test_calibrated_settings_build_it_whatever_a_batch_holds(
    batch_size: int, grid: int, share: float
) -> None:
    config = calibrated(Facts(2000, 2000, batch_size, grid, statistics=None, has_attention=True))
    assert config.denominator_share == share


@pytest.mark.parametrize(("epochs", "each"), [(4, 60), (15, 16), (240, 1), (1, 240)])
def test_calibrated_runs_renew_ten_times_however_they_are_cut_into_epochs(
    epochs: int, each: int
) -> None:
    total = epochs * each
    facts = Facts(96, total, 16, 14, statistics=None, has_attention=True)
    method = build(**calibrated(facts).model_dump() | {"dim": 8, "pool_size": 12})
    pool, filled = method.specific_pool.rows, []
    for index in range(total):
        before = pool.clone()
        method.before_step("train", Step(index, total, index % each), WALKS)
        if not torch.equal(pool, before):
            filled.append(index)
    assert filled == list(range(0, total, total // 10))
    assert method.task_weight(Step(filled[-1], total)) > 0.85


def test_a_loss_in_training_is_one_update_of_the_teacher() -> None:
    method, batch = learning(decay=0.75), make_batch(range(3))
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.zero_()
    for count in (1, 2):
        method.loss(batch, "train")
        for slow, fast in zip(method.teacher.parameters(), method.head.parameters(), strict=True):
            torch.testing.assert_close(slow, (1 - 0.75**count) * fast)
    method.eval()
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method.loss(batch, "train")
    assert all(map(torch.equal, before, method.teacher.parameters()))


def test_the_loss_reads_the_teacher_before_its_update() -> None:
    step = Step(10, 20, 10)
    batch = replace(make_batch(range(3)), step=step)
    lasting, moving = (learning(decay=decay) for decay in (1.0, 0.0))
    with torch.no_grad():
        for method in (lasting, moving):
            method.teacher.linear.weight.neg_()
    losses = [method.loss(batch, "train").loss for method in (lasting, moving)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(lasting.teacher.linear.weight, moving.teacher.linear.weight)


def test_draws_of_an_image_depend_on_it_and_the_step_alone() -> None:
    method = build()
    whole = method.draw(make_batch(range(4)), "train")
    part = method.draw(make_batch([2]), "train")
    other = method.draw(make_batch([2], step=1), "train")

    def flat(draws: Any) -> list[Tensor]:
        masks = [*draws.student, *draws.teacher, *draws.augmented, *draws[2:5]]
        return [mask.flatten(1) for mask in masks]

    for all_masks, own, later in zip(flat(whole), flat(part), flat(other), strict=True):
        assert torch.equal(all_masks[2:3], own)
        assert own.eq(0).logical_or(own.sub(1 / 0.9).abs() < 1e-6).all()
        assert not torch.equal(own, later) or own.min() > 0
    # Nine different masks, whichever of them are of the same size.
    together = flat(whole)
    assert not any(
        torch.equal(a, b)
        for i, a in enumerate(together)
        for b in together[:i]
        if a.shape == b.shape
    )
    assert whole.sampled is not None
    assert part.sampled is not None
    assert torch.equal(whole.sampled.chunk(4, dim=1)[2], part.sampled)


def test_every_pair_joins_the_denominators_at_share_one() -> None:
    assert build(denominator_share=1.0).draw(make_batch([0]), "train").sampled is None


def test_cosines_replace_attention() -> None:
    method = learning(affinity="cosine", affinity_temperature=0.2, dropout=0)
    batch = make_batch(range(2))
    plain = replace(batch, features=FeatureMap(batch.features.tokens))
    local = cosine_weights(batch.features.tokens, 0.2)
    given = replace(batch, features=replace(batch.features, local=local))
    attending = learning(dropout=0)
    assert torch.equal(
        method.loss(plain, "train").loss.detach(), attending.loss(given, "train").loss.detach()
    )


def test_scalars_are_the_terms_of_the_loss() -> None:
    method = learning()
    result = method.loss(replace(make_batch(range(3)), step=Step(10, 20, 10)), "train")
    terms = result.scalars
    total = terms["contrastive"] + 0.05 * terms["consistency"] + terms["cluster"]
    torch.testing.assert_close(result.loss.detach(), total)
    assert terms["task_weight"] == 0.5
    assert terms["agnostic_positives"] > 0
    assert terms["specific_positives"] > 0
    assert 0 < terms["anchors"] <= 1


def test_consistency_of_weight_zero_is_not_computed() -> None:
    method = learning(consistency_weight=0)
    result = method.loss(replace(make_batch(range(3)), augmented=None), "train")
    assert "consistency" not in result.scalars
