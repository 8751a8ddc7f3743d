"""HP's heads, teacher, cluster probe and reference pools against vectors of its official code.

Pools, which the official code keeps in float16, are compared to 1e-3.

Not here: `hp_linear_probe_loss` (the linear probe is supervised and belongs to scoring:
`test_linear_probe`) and `coco_fine_to_coarse` (a table of a data set: `test_labels`).
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.numerics.hp import Golden, Vectors, close, close_gradient, leaf
from usseg_ray.core.types import Batch, FeatureMap, FeatureSpec, Step
from usseg_ray.methods.hp import HP, HPDraws
from usseg_ray.methods.parts.cluster_probe import ClusterProbe
from usseg_ray.methods.parts.heads import HeadMasks, SegmentationHead, update_teacher
from usseg_ray.ops.attention import local_weights, propagate
from usseg_ray.settings.hp import HPConfig

HEAD_PARTS = {"linear": "1.0", "hidden": "2.0", "output": "2.2"}


def load_head(head: SegmentationHead, vectors: Vectors, prefix: str) -> None:
    state = {
        f"{own}.{leaf_name}": torch.as_tensor(vectors[f"{prefix}{official}.{leaf_name}"])
        for own, official in HEAD_PARTS.items()
        for leaf_name in ("weight", "bias")
    }
    head.load_state_dict(state, strict=True)


def golden_method(vectors: Vectors) -> HP:
    dim, code_dim = vectors["eval_code"].shape[1], vectors["vit_tokens_last_block_normed"].shape[2]
    config = HPConfig(dim=dim, pool_size=4, decay=float(vectors["ema_m"]), consistency_weight=0)
    method = HP(config, FeatureSpec(code_dim, 8, has_attention=True), 3, seed=0)
    load_head(method.head, vectors, "w_before/cluster")
    load_head(method.teacher, vectors, "w_before/ema_model")
    return method


def golden_features(vectors: Vectors) -> FeatureMap:
    tokens = torch.as_tensor(vectors["vit_tokens_last_block_normed"])[:, 1:].mT
    logits = torch.as_tensor(vectors["attn_logits_last_block"])[:, :, 1:, 1:]
    local = local_weights(logits, 6, 6, float(vectors["sigma"]))
    return FeatureMap(tokens.unflatten(2, (6, 6)).contiguous(), None, local)


def masks(vectors: Vectors, *, training: bool) -> HPDraws:
    names = (
        "0_cluster1_in",
        "2_cluster2_in",
        "1_ema1_in",
        "3_ema2_in",
        "4_out_feat",
        "5_out_code_ema",
        "6_out_code_lhp",
    )
    drawn = [torch.as_tensor(vectors[f"drop_mask/{name}"])[:, :, None, None] for name in names]
    if not training:
        drawn = [torch.ones_like(mask) for mask in drawn]
    student, teacher = HeadMasks(*drawn[:2]), HeadMasks(*drawn[2:4])
    return HPDraws(student, teacher, drawn[4], drawn[5], drawn[6], augmented=student, sampled=None)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_codes_of_head_teacher_and_neighbourhood(golden: Golden, mode: str) -> None:
    vectors = golden("hp/hp_featurizer_lhp_ema.npz")
    method = golden_method(vectors)
    codes = method.codes(golden_features(vectors), masks(vectors, training=mode == "train"))
    close(codes.features, vectors[f"{mode}_image_feat"])
    close(codes.student, vectors[f"{mode}_code"])
    close(codes.teacher, vectors[f"{mode}_code_ema"])
    close(codes.mixed, vectors[f"{mode}_code_lhp"])
    assert not codes.teacher.requires_grad


def test_loss_moves_the_teacher_by_the_head_before_the_optimiser(golden: Golden) -> None:
    vectors = golden("hp/hp_featurizer_lhp_ema.npz")
    method = golden_method(vectors)
    batch = Batch(("a", "b"), torch.zeros(2, 3, 48, 48), golden_features(vectors))
    drawn = masks(vectors, training=False)
    method.loss(batch, "train", drawn).loss.backward()
    close(method.codes(batch.features, drawn).student, vectors["eval_code"])
    for own, official in HEAD_PARTS.items():
        for name in ("weight", "bias"):
            close(
                method.teacher.get_submodule(own).get_parameter(name),
                vectors[f"w_after/ema_model{official}.{name}"],
                1e-7,
            )


def test_teacher_after_an_update(golden: Golden) -> None:
    vectors = golden("hp/hp_featurizer_lhp_ema.npz")
    method = golden_method(vectors)
    update_teacher(method.teacher, method.head, float(vectors["ema_m"]))
    close(method.teacher.linear.weight, vectors["w_after/ema_model1.0.weight"], 1e-7)


def test_local_weights_are_the_propagation_matrix(golden: Golden) -> None:
    vectors = golden("hp/hp_featurizer_lhp_ema.npz")
    local = golden_features(vectors).local
    assert local is not None
    one_hot = torch.eye(36).view(1, 36, 6, 6).expand(2, -1, -1, -1).contiguous()
    close(propagate(one_hot, local).flatten(2).mT, vectors["propagation_matrix"])
    # Where the official mask is 0 no weight is, and every other patch is one of the nine.
    inside = propagate(one_hot, torch.ones_like(local)).flatten(2).mT[0]
    np.testing.assert_array_equal(inside.numpy() > 0, vectors["index_mask"] > 0)
    np.testing.assert_array_equal(inside.sum(1).numpy(), vectors["divide_num"])


def test_gradient_is_propagated_to_local_hidden_positives(golden: Golden) -> None:
    vectors = golden("hp/hp_featurizer_lhp_ema.npz")
    method = golden_method(vectors)
    codes = method.codes(golden_features(vectors), masks(vectors, training=False))
    (codes.mixed * torch.as_tensor(vectors["lhp_upstream_grad"])).sum().backward()
    head = method.head
    for layer, name in (
        (head.linear, "cluster1"),
        (head.hidden, "cluster2_0"),
        (head.output, "cluster2_2"),
    ):
        close_gradient(layer.weight.grad, vectors[f"lhp_grad_{name}_weight"])


def golden_probe(vectors: Vectors) -> ClusterProbe:
    count, dim = vectors["clusters"].shape
    probe = ClusterProbe(count, dim, torch.Generator())
    probe.load_state_dict({"centroids": torch.as_tensor(vectors["clusters"])})
    return probe


@pytest.mark.parametrize("alpha", [None, 3, 2])
def test_cluster_probe(golden: Golden, alpha: int | None) -> None:
    vectors = golden("hp/cluster_lookup_hp.npz")
    probe = golden_probe(vectors)
    codes = leaf(vectors["x"])
    loss = probe.loss(codes, None if alpha is None else float(alpha))
    close(loss, vectors[f"loss_alpha_{alpha}"])
    loss.backward()
    close_gradient(probe.centroids.grad, vectors[f"grad_clusters_alpha_{alpha}"])
    close_gradient(codes.grad, vectors[f"grad_x_alpha_{alpha}"])
    if alpha is None:
        winners = probe(codes).argmax(1).numpy()
        np.testing.assert_array_equal(winners, vectors["out_alpha_None"].argmax(1))
    else:
        close((alpha * probe(codes)).softmax(1), vectors[f"out_alpha_{alpha}"])


def test_cluster_probe_log_probabilities(golden: Golden) -> None:
    vectors = golden("hp/cluster_lookup_hp.npz")
    probe = golden_probe(vectors)
    scores = probe(torch.as_tensor(vectors["x"]))
    close((2 * scores).log_softmax(1), vectors["out_alpha_2_log"])


class Recorded:
    """Walks over recorded maps, as a data set of five batches."""

    def __init__(self, maps: Any) -> None:
        self.maps = torch.as_tensor(maps)

    def __call__(self, only: Collection[str] | None = None) -> Iterator[Batch]:  # noqa: ARG002
        return self.crops(0, 4)

    def names(self) -> list[str]:
        return [str(number) for number in range(4 * len(self.maps))]

    def crops(self, walk: int, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002
        for number, tokens in enumerate(self.maps):
            names = tuple(str(4 * number + image) for image in range(4))
            yield Batch(names, torch.zeros(4, 3, 24, 24), FeatureMap(tokens))


def patches(indices: Any) -> dict[str, int]:
    return {str(image): int(patch) for image, patch in enumerate(indices)}


def passing_teacher(dim: int, size: int, **settings: Any) -> HP:
    """HP without dropout whose teacher gives the tokens themselves."""
    config = HPConfig(dim=dim, dropout=0, pool_size=size, consistency_weight=0, **settings)
    method = HP(config, FeatureSpec(dim, 8, has_attention=True), 3, seed=0)
    for parameter in method.teacher.parameters():
        parameter.zero_()
    method.teacher.linear.weight.copy_(torch.eye(dim)[:, :, None, None])
    return method


def same_rows(pool: Tensor, expected: Any) -> None:
    """Every row of one is a row of the other; a pool has no order."""
    distances = torch.cdist(pool, torch.as_tensor(expected).float())
    assert distances.amin(1).max() < 2e-3
    assert len(distances.argmin(1).unique()) == len(pool)
    nearest = torch.as_tensor(expected).float()[distances.argmin(1)]
    close(pool, nearest.numpy(), 1e-3)


def test_reference_pools(golden: Golden) -> None:
    vectors = golden("hp/hp_reference_pool.npz")
    drawn: dict[str, dict[str, int]] = {
        "agnostic": patches(vectors["patch_idx_ag"]),
        "specific": patches(vectors["patch_idx_sp"]),
    }
    for maps, name, expected in (
        ("backbone_feats", "agnostic_pool", "pool_ag_fp16"),
        ("ema_codes", "specific_pool", "pool_sp_fp16"),
    ):
        method = passing_teacher(vectors[maps].shape[2], int(vectors["pool_size"]))
        method.before_step("train", Step(0, 100, 0), Recorded(vectors[maps]), drawn)
        same_rows(method.get_submodule(name).get_buffer("rows"), vectors[expected])


def test_only_the_task_specific_pool_is_renewed(golden: Golden) -> None:
    vectors = golden("hp/hp_reference_pool.npz")
    walks = Recorded(vectors["ema_codes"])
    method = passing_teacher(walks.maps.shape[2], int(vectors["pool_size"]), renewal_steps=7)
    method.before_step("train", Step(0, 100, 0), walks)
    before = method.agnostic_pool.rows.clone()
    drawn = patches(vectors["patch_idx_renew"])
    method.before_step("train", Step(7, 100, 7), walks, {"specific": drawn})
    same_rows(method.specific_pool.rows, vectors["pool_sp_renewed_fp16"])
    assert torch.equal(method.agnostic_pool.rows, before)
