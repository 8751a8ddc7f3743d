"""PPAP's own promises: what it needs, what learns, its draws, and where it starts from."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract.cases import DIM, FEATURES, NETWORK, make_batch
from usseg_ray.core.calibration import Facts
from usseg_ray.core.errors import UserError
from usseg_ray.core.types import Needs
from usseg_ray.methods.ppap import PPAP
from usseg_ray.settings.ppap import PPAPConfig


def build(**settings: Any) -> PPAP:
    return PPAP(PPAPConfig(**{"split": 4} | settings), FEATURES, 4, seed=0)


def test_only_a_copy_needs_what_goes_into_the_block() -> None:
    assert PPAP.needs(PPAPConfig()) == Needs(block_input=True)
    assert PPAP.needs(PPAPConfig(block="new")) == Needs()
    batch = make_batch([0])
    bare = replace(batch, features=replace(batch.features, block_input=None))
    with pytest.raises(TypeError, match=r"'copy' needs FeatureMap\.block_input"):
        build().describe(bare)


def test_a_backbone_without_a_block_is_refused_in_a_line() -> None:
    spec = replace(FEATURES, block=None)
    with pytest.raises(UserError, match=r"'copy': .* --set method\.block=new") as caught:
        PPAP(PPAPConfig(), spec, 4, seed=0)
    assert "\n" not in str(caught.value)
    assert PPAP(PPAPConfig(block="new"), spec, 4, seed=0)


def test_calibration_takes_a_new_block_where_there_is_none_to_copy() -> None:
    facts = Facts(96, 240, 16, 14, None, has_attention=False)
    assert {one.key: one.value for one in PPAP.calibrated(facts)}["method.block"] == "new"
    keys = {one.key for one in PPAP.calibrated(replace(facts, has_attention=True))}
    assert "method.block" not in keys


def test_codes_start_as_tokens() -> None:
    batch = make_batch(range(3))
    assert torch.equal(build(block="new").describe(batch), batch.features.tokens)
    assert batch.features.block_input is not None
    with torch.no_grad():
        frozen = NETWORK.norm(NETWORK.blocks[0](batch.features.block_input.tokens))[:, 1:]
    found = build().describe(batch)
    torch.testing.assert_close(found.flatten(2).mT, frozen)


def test_block_and_projection_learn_together_and_the_norm_does_not() -> None:
    method = build(clustering="probe", lr=2e-3, weight_decay=0.3, clip_norm=4.0, cluster_lr=1e-2)
    learnt, probe = method.param_groups("train")
    assert (learnt.optimiser, learnt.lr, learnt.weight_decay) == ("adamw", 2e-3, 0.3)
    assert (learnt.clip_norm, probe.lr, probe.clip_norm) == (4.0, 1e-2, None)
    named = {name for name, p in method.named_parameters() if any(p is q for q in learnt.params)}
    left = {name for name, _ in method.named_parameters()} - named
    assert left == {"block.norm.weight", "block.norm.bias", "probe.centroids"}
    assert {"projection.weight", "block.block.attn.qkv.weight"} < named


def test_anchors_are_of_their_image_and_step_alone() -> None:
    method = build(split=3)
    draws = method.draw(make_batch(range(6)), "train")
    assert draws.anchors.shape == (6, 5)
    assert all(len(set(row)) == 5 for row in draws.anchors.tolist())
    assert draws.anchors.min() >= 0
    assert draws.anchors.max() < 16
    assert torch.equal(method.draw(make_batch([4]), "train").anchors[0], draws.anchors[4])
    assert not torch.equal(method.draw(make_batch(range(6), 1), "train").anchors, draws.anchors)
    assert build(split=99).draw(make_batch([0]), "train").anchors.shape == (1, 1)


def test_dropout_is_of_channels_of_the_tokens_that_choose_and_of_nothing_else() -> None:
    method, batch = build(dropout=0.4), make_batch(range(40))
    draws = method.draw(batch, "train")
    assert draws.features.shape == (40, DIM, 1, 1)
    assert float((draws.features == 0).float().mean()) == pytest.approx(0.4, abs=0.08)
    # Where every patch is a positive, whatever the tokens, only codes are left in the loss.
    every, batch = build(positive=-1.0, dropout=0.0, rounds=0), make_batch(range(3))
    whole = every.draw(batch, "train")
    dropped = whole._replace(features=build(dropout=0.4).draw(batch, "train").features)
    first, second = (every.loss(batch, "train", each).loss for each in (whole, dropped))
    assert torch.equal(first, second)


def test_scalars_say_how_many_partners_an_anchor_has() -> None:
    batch = make_batch(range(3))
    scalars = build(positive=-1.0, rounds=0).loss(batch, "train").scalars
    assert set(scalars) == {"contrast", "positives", "compared", "proxies_moved"}
    assert scalars["positives"] == scalars["compared"] == 3 * 16 - 1
    assert scalars["proxies_moved"] == 0
