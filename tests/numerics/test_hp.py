"""HP against vectors of its official code, and its kernel against loops and dense autograd.

Tolerances are those that the vectors' notes suggest: 1e-5 for values, relative where they are above
1; gradients 1e-4 of the largest entry; pools, which the official code keeps in float16, 1e-3. The
contrastive loss is compared with the official text run on float32 masks (`fp32mask`) and with the
float64 equation; the shipped float16 masks round lambda and counts, so `*_official` arrays are
only near (1e-3).

Not applicable: `hp_linear_probe_loss` (the linear probe is supervised and belongs to scoring, no
method has one) and `coco_fine_to_coarse` (a table of a data set).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from usseg_ray.batch import Batch, FeatureMap, FeatureSpec, Step
from usseg_ray.methods.hp import HP, HPConfig, HPDraws, PoolName
from usseg_ray.ops import contrastive
from usseg_ray.ops.attention import local_weights, propagate
from usseg_ray.ops.cluster_probe import ClusterProbe
from usseg_ray.ops.contrastive import (
    Candidates,
    Contrast,
    ContrastiveOptions,
    Weighting,
    best_match,
    consistency_loss,
    hidden_positive_loss,
)
from usseg_ray.ops.ema import update_teacher
from usseg_ray.ops.heads import HeadMasks, SegmentationHead

Vectors = dict[str, Any]
Golden = Callable[[str], Vectors]
HEAD_PARTS = {"linear": "1.0", "hidden": "2.0", "output": "2.2"}


def close(actual: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    """Absolute up to values of 1, relative above."""
    np.testing.assert_allclose(
        actual.detach().double().numpy(), expected, rtol=tolerance, atol=tolerance
    )


def close_gradient(actual: Tensor | None, expected: Any, tolerance: float = 1e-4) -> None:
    """A share of the gradient's largest entry."""
    assert actual is not None
    scale = max(tolerance * float(np.abs(expected).max()), 1e-9)
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=scale)


def leaf(array: Any) -> Tensor:
    return torch.as_tensor(array).clone().requires_grad_()


def candidates(vectors: Vectors, rows: str, pool: str) -> Candidates:
    unit = torch.as_tensor(vectors[rows])
    return Candidates(unit, best_match(unit, torch.as_tensor(vectors[pool])))


def golden_contrast(vectors: Vectors, tag: str, codes: Tensor, mixed: Tensor) -> Contrast:
    """Computes the loss in one of the recorded settings."""
    tau, rho, weight, reweighting, version = vectors[f"{tag}_hyper_tau_rho_lambda_reweight_version"]
    options = ContrastiveOptions(
        float(tau), float(weight), bool(reweighting), "joint" if version == 1 else "separate"
    )
    return hidden_positive_loss(
        codes,
        mixed,
        candidates(vectors, "f", "pool_ag"),
        candidates(vectors, "s_pr", "pool_sp") if weight > 0 else None,
        torch.as_tensor(vectors["uniform"]) < float(rho) if rho < 1 else None,
        int(vectors["spatial_size"]) ** 2,
        options,
    )


def test_threshold_is_the_best_match_in_the_pool(golden: Golden) -> None:
    vectors = golden("hp/hp_supcon_pools.npz")
    close(candidates(vectors, "f", "pool_ag").best, vectors["R_ag"])
    close(candidates(vectors, "s_pr", "pool_sp").best, vectors["R_sp"])


def test_positives_of_both_kinds(golden: Golden) -> None:
    vectors = golden("hp/hp_supcon_pools.npz")
    codes = torch.as_tensor(vectors["z"])
    contrast = golden_contrast(vectors, "b", codes, codes)
    np.testing.assert_array_equal(contrast.agnostic.numpy(), vectors["mask_ag_derived"].sum(1))
    np.testing.assert_array_equal(contrast.specific.numpy(), vectors["mask_sp_derived"].sum(1))
    dropped = int((contrast.agnostic == 0).sum())
    assert dropped == int(vectors["n_anchors_without_ag_positive"]) > 0


@pytest.mark.parametrize("tag", ["a", "b", "c", "d", "e"])
def test_contrastive_loss_and_gradients(golden: Golden, tag: str) -> None:
    vectors = golden("hp/hp_supcon_pools.npz")
    codes, mixed = leaf(vectors["z"]), leaf(vectors["z_mix"])
    loss = golden_contrast(vectors, tag, codes, mixed).loss
    close(loss, vectors[f"{tag}_loss_fp32mask"])
    close(loss, vectors[f"{tag}_loss_equation_f64"])
    close(loss, vectors[f"{tag}_loss_official"], 1e-3)
    loss.backward()
    for actual, name in ((codes, "grad_z"), (mixed, "grad_zmix")):
        close_gradient(actual.grad, vectors[f"{tag}_{name}_fp32mask"])
        close_gradient(actual.grad, vectors[f"{tag}_{name}_official"], 1e-3)


@pytest.mark.parametrize("tag", ["f", "g"])
def test_separate_weighting_with_the_official_slip(golden: Golden, tag: str) -> None:
    """The official version 2 reads the unmixed codes in its local term, so they are given twice."""
    vectors = golden("hp/hp_supcon_pools.npz")
    codes = leaf(vectors["z"])
    loss = golden_contrast(vectors, tag, codes, codes).loss
    close(loss, vectors[f"{tag}_loss_fp32mask"])
    close(loss, vectors[f"{tag}_loss_equation_f64"])
    close(loss, vectors[f"{tag}_loss_official"], 1e-3)
    loss.backward()
    close_gradient(codes.grad, vectors[f"{tag}_grad_z_fp32mask"])
    close_gradient(codes.grad, vectors[f"{tag}_grad_z_official"], 1e-3)


class Problem:
    """A random batch in float64, whose patches come in groups so that images share positives."""

    def __init__(self, images: int, patches: int, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.images, self.patches = images, patches
        groups = torch.randint(0, 3, (images * patches,), generator=self.random)
        self.agnostic, self.specific = self.kind(groups, 6), self.kind(groups, 5)
        uniform = torch.rand(patches, images * patches, generator=self.random)
        self.sampled = uniform < 0.3

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def kind(self, groups: Tensor, dim: int) -> Candidates:
        centres = self.draw(3, dim)
        rows = normalize(centres[groups] + 0.5 * self.draw(len(groups), dim), dim=1)
        pool = normalize(centres + 0.5 * self.draw(3, dim), dim=1)
        return Candidates(rows, best_match(rows, pool))

    def codes(self) -> Tensor:
        return normalize(self.draw(self.images * self.patches, 4), dim=1).requires_grad_()


def naive_loss(
    problem: Problem,
    codes: Tensor,
    sampled: Tensor | None,
    options: ContrastiveOptions,
) -> Tensor:
    """One of the two terms, by its definition: loops over images, anchors and partners."""
    size, tau = len(codes), options.temperature

    def positive(kind: Candidates, i: int, j: int) -> bool:
        cosine = float(kind.rows[i] @ kind.rows[j])
        return i != j and (cosine > float(kind.best[i]) or cosine > float(kind.best[j]))

    def anchor(i: int, weights: list[float]) -> Tensor:
        row = i % problem.patches
        members = [
            k
            for k in range(size)
            if k != i
            and (positive(problem.agnostic, i, k) or sampled is None or bool(sampled[row, k]))
        ]
        logits = codes @ codes[i] / tau
        log_sum = torch.logsumexp(logits[members], 0)
        return sum(
            (w * (logits[j] - log_sum) for j, w in enumerate(weights) if w), logits.new_zeros(())
        )

    def term(weight: Callable[[int, int], float], counts: Callable[[int], bool]) -> Tensor:
        losses = []
        for image in range(problem.images):
            own = range(image * problem.patches, (image + 1) * problem.patches)
            rows = {i: [weight(i, j) for j in range(size)] for i in own}
            kept = [i for i in own if counts(i) and sum(rows[i]) > 0]
            if not kept:
                continue
            totals = {i: sum(rows[i]) for i in kept}
            mean = sum(totals.values()) / len(kept)
            shares = [totals[i] / mean if options.reweighting else 1.0 for i in kept]
            parts = [
                share * anchor(i, rows[i]) / totals[i]
                for i, share in zip(kept, shares, strict=True)
            ]
            losses.append(-(tau / 0.07) * torch.stack(parts).mean())
        return torch.stack(losses).mean()

    def agnostic(i: int, j: int) -> float:
        return float(positive(problem.agnostic, i, j))

    def specific(i: int, j: int) -> float:
        return options.task_weight * float(positive(problem.specific, i, j))

    def has_agnostic(i: int) -> bool:
        return any(agnostic(i, j) for j in range(size))

    if options.weighting == "joint":
        return term(lambda i, j: agnostic(i, j) + specific(i, j), has_agnostic)
    unweighted = term(lambda i, j: float(positive(problem.specific, i, j)), lambda _: True)
    return term(agnostic, lambda _: True) + options.task_weight * unweighted


@pytest.mark.parametrize("reweighting", [True, False], ids=["reweighted", "even"])
@pytest.mark.parametrize("weighting", ["joint", "separate"])
@pytest.mark.parametrize("share", ["some", "all"])
def test_loss_and_gradient_equal_loops_over_pairs(
    monkeypatch: pytest.MonkeyPatch, share: str, weighting: Weighting, reweighting: bool
) -> None:
    # Two images a block and an odd image, so that squares, rectangles and a short block occur.
    monkeypatch.setitem(contrastive._ROWS_AT_A_TIME, "cpu", 12)
    problem = Problem(images=5, patches=6)
    sampled = problem.sampled if share == "some" else None
    options = ContrastiveOptions(0.5, 0.3, reweighting, weighting)
    codes, mixed = problem.codes(), problem.codes()
    contrast = hidden_positive_loss(
        codes, mixed, problem.agnostic, problem.specific, sampled, problem.patches, options
    )
    naive = (
        naive_loss(problem, codes, sampled, options) + naive_loss(problem, mixed, sampled, options)
    ) / 2
    torch.testing.assert_close(contrast.loss, naive, rtol=1e-12, atol=0)
    fast = torch.autograd.grad(contrast.loss, (codes, mixed))
    slow = torch.autograd.grad(naive, (codes, mixed))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)


def test_task_specific_positives_of_weight_zero_change_nothing() -> None:
    problem = Problem(images=3, patches=8, seed=1)
    codes, mixed = problem.codes(), problem.codes()
    losses = [
        hidden_positive_loss(
            codes, mixed, problem.agnostic, kind, problem.sampled, 8, ContrastiveOptions(0.8, 0.0)
        ).loss
        for kind in (problem.specific, None)
    ]
    assert torch.equal(losses[0], losses[1])


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


def test_consistency(golden: Golden) -> None:
    vectors = golden("hp/hp_consistency.npz")
    codes, others = leaf(vectors["z"]), leaf(vectors["z_aug"])
    loss = consistency_loss(codes, others)
    close(loss, vectors["loss"])
    loss.backward()
    close_gradient(codes.grad, vectors["grad_z"])
    close_gradient(others.grad, vectors["grad_z_aug"])


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

    def __call__(self) -> Iterator[Batch]:
        return self.crops(0, 4)

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
    drawn: dict[PoolName, dict[str, int]] = {
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
